"""The one trunk: a residual stream with a list of sublayers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import torch
from torch import nn

from hyla.errors import ConfigError
from hyla.layers.carry import Carry
from hyla.layers.embedding import Embedding
from hyla.layers.head import Head
from hyla.layers.linear import Projection
from hyla.layers.module_list import ModuleList
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.config import ModelConfig
from hyla.models.ids import check_ids
from hyla.models.mtp import Hidden, MTPModule
from hyla.models.objective import Losses, Targets, losses_of
from hyla.models.stack import Observer, Sublayer, build_norm, cache_specs_of, run
from hyla.ops.batch import Batch


class Model(nn.Module):
    """A language model over packed batches of token ids."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_dim)
        self.sublayers: ModuleList[Sublayer] = ModuleList(Sublayer(sub, config.hidden_dim) for sub in config.sublayers)
        self.norm = build_norm(config.final_norm, config.hidden_dim)
        self.head = Head(config.hidden_dim, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
            self.embed.share(self.head.projection)
        self.mtp: ModuleList[MTPModule] = ModuleList(
            MTPModule(mtp, config.hidden_dim, config.vocab_size) for mtp in config.mtp
        )
        """Multi-token prediction modules, none for most models; `predict_next` runs them, the trunk never does."""
        self.stored_dtypes: dict[str, torch.dtype] = {}
        """By weight: its dtype in the file that it came from, in which it is saved again where that loses nothing."""
        self.quantization: dict | None = None
        """`quantization_config` of a model whose weights stay FP8, as it was published."""
        self.published_scales: dict[str, torch.Tensor] = {}
        """Scales of FP8 tensors that were dequantised because ours split them inside a block, by published name."""

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed.device

    def _apply(self, fn, recurse: bool = True):
        """`Module.to` and its like; on some devices they make new parameters, and a tied head must stay tied."""
        super()._apply(fn, recurse)
        if self.config.tie_embeddings:
            self.head.weight = self.embed.weight
        return self

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        """What each mixer keeps, in stack order."""
        return cache_specs_of(self.sublayers)

    def carries(self) -> list[Carry]:
        """For pieces that begin documents, one per mixer: what the next pieces go on from (`layers.carry`)."""
        return [Carry() for sublayer in self.sublayers if sublayer.is_mixer]

    @property
    def num_mtp_steps(self) -> int:
        """Tokens after the next one that the checkpoint was trained to guess; 0: none."""
        return sum(module.num_steps for module in self.config.mtp)

    def mtp_cache_specs(self, step: int = 0) -> tuple[CacheSpec, ...]:
        """What each mixer of one step of multi-token prediction keeps, on the trunk's grid: one pool can hold both."""
        return self._mtp_module(step).cache_specs()

    def _mtp_module(self, step: int) -> MTPModule:
        """The module of a step (from 0); the last one serves all steps after its own."""
        modules = [module for module in self.mtp for _ in range(module.config.num_steps)]
        if not modules:
            raise ConfigError("this model has no multi-token prediction modules; see `num_mtp_steps`")
        return modules[min(step, len(modules) - 1)]

    @overload
    def forward(
        self,
        tokens_T: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache | Carry] | None = None,
        *,
        targets: None = None,
        observer: Observer | None = None,
    ) -> torch.Tensor: ...

    @overload
    def forward(
        self,
        tokens_T: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache | Carry] | None = None,
        *,
        targets: Targets,
        observer: Observer | None = None,
    ) -> Losses: ...

    def forward(
        self,
        tokens_T: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache | Carry] | None = None,
        *,
        targets: Targets | None = None,
        observer: Observer | None = None,
    ) -> torch.Tensor | Losses:
        """Token ids int64 [T] -> final hidden states [T, D] in the model's dtype; with targets the losses.

        caches: one per mixer, as `cache_specs` declares; extended in place by this call. Or `carries`, for pieces of
        documents; None: whole sequences.
        targets: losses are made in here, so that whoever wraps this call (shards, compiles) sees every weight used.
        observer: told of each sublayer's input and output (`models.stack.Tap`).
        """
        if targets is not None and targets.lesson is not None:
            targets.lesson.begin()
        hidden = self.hidden(tokens_T, batch, caches, observer=observer)
        return hidden.head_TD if targets is None else losses_of(self, hidden, batch, targets)

    def hidden(
        self,
        tokens_T: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache | Carry] | None = None,
        *,
        observer: Observer | None = None,
    ) -> Hidden:
        """`forward`, with what multi-token prediction reads beside it."""
        raw_TD = run(self.sublayers, self.embed(tokens_T), batch, caches, observer)
        head_TD = self.norm(raw_TD)
        reads_raw = bool(self.config.mtp) and self.config.mtp[0].reads == "raw"
        return Hidden(head_TD, raw_TD if reads_raw else head_TD)

    def predict_next(
        self,
        tokens_T: torch.Tensor,
        next_TD: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache] | None = None,
        *,
        step: int = 0,
    ) -> Hidden:
        """One step of multi-token prediction: hidden states whose `head_logits(.., step=step)` guess one token further.

        tokens_T: int64 [T], for a row at position i the token t_{i + 1 + step}, committed or guessed. next_TD: [T, D],
        for the same rows, of `hidden` (step 0) or of this method's result for the step before. batch: positions are
        those of the hidden states, so it is the trunk's, or one that starts earlier (`models.mtp.earlier`).
        caches: of this step, one per mixer (`mtp_cache_specs`), extended in place; None: whole sequences.
        """
        module = self._mtp_module(step)
        embedded_TD = (self.embed if module.embed is None else module.embed)(tokens_T)
        return module(embedded_TD, next_TD, batch, caches)

    def head_logits(self, head_TD: torch.Tensor, *, step: int | None = None) -> torch.Tensor:
        """Hidden states [R, D] -> logits [R, vocab], always fp32. step: of multi-token prediction; None: the trunk."""
        return (self.head if step is None else self.head_of_step(step)).logits(head_TD)

    def head_of_step(self, step: int) -> Head:
        """The head of one step of multi-token prediction: its own or the trunk's."""
        head = self._mtp_module(step).head
        return self.head if head is None else head

    def logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Logits of whole prompts (token-id lists, each of at least one id): a [T_i, vocab] fp32 tensor for each.

        Under autograd it is differentiable. Raises RequestError for an empty prompt or an id out of range.
        """
        for n, ids in enumerate(prompts):
            self.check_ids(ids, f"prompts[{n}]")
        batch = Batch.packed([len(ids) for ids in prompts], device=self.device)
        tokens_T = torch.tensor([token for ids in prompts for token in ids], device=self.device)
        return list(self.head_logits(self(tokens_T, batch)).split(batch.lengths))

    def check_ids(self, ids: Sequence[int], name: str) -> None:
        """Raise RequestError unless ids are a non-empty list of token ids of this model."""
        check_ids(ids, self.config.vocab_size, name)

    def projections(self) -> Iterator[Projection]:
        """Every matrix product of the model with packable weights."""
        for module in self.modules():
            yield from getattr(module, "projections", ()) if module is not self else ()

    def pack(self) -> Model:
        """Put weights into the layout of the CPU's kernel or library, once, for inference; results keep their bits.

        Undo: `unpack`."""
        for projection in self.projections():
            projection.pack()
        return self

    def unpack(self) -> Model:
        """Plain, trainable weights again."""
        for projection in self.projections():
            projection.unpack()
        return self
