"""The one trunk: a residual stream with a list of sublayers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from hyla.errors import RequestError
from hyla.layers.linear import Linear, Projection
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.config import ModelConfig
from hyla.models.mtp import MTPModule
from hyla.models.stack import Sublayer, build_norm, cache_specs_of, run
from hyla.ops import rows
from hyla.ops.batch import Batch


class Model(nn.Module):
    """A language model over packed batches of token ids."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # Left blank like every other weight: nn.Embedding's own random start costs seconds, on the meta device as well.
        blank_VD = torch.empty(config.vocab_size, config.hidden_dim)
        self.embed = nn.Embedding.from_pretrained(blank_VD, freeze=False)
        self.sublayers = nn.ModuleList(Sublayer(sub, config.hidden_dim) for sub in config.sublayers)
        self.norm = build_norm(config.final_norm, config.hidden_dim)
        self.head = Linear(config.hidden_dim, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
        self.head_projection = Projection(self.head, dtype=torch.float32)
        self.mtp = nn.ModuleList(MTPModule(mtp, config.hidden_dim, config.vocab_size) for mtp in config.mtp)
        """Multi-token prediction modules, none for most models; `predict_next` runs them, the trunk never does."""
        self.stored_dtypes: dict[str, torch.dtype] = {}
        """Of weights read from a file: their dtype there, in which they are saved again where that loses nothing."""
        self.quantization: dict | None = None
        """`quantization_config` of a model whose weights stay FP8, as it was published."""
        self.published_scales: dict[str, torch.Tensor] = {}
        """By published name: the scales of FP8 tensors that were dequantised because ours split them inside a block."""

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        """What each mixer keeps, in stack order."""
        return cache_specs_of(self.sublayers)

    def mtp_cache_specs(self, module: int = 0) -> tuple[CacheSpec, ...]:
        """What each mixer of a multi-token prediction module keeps: on the same grid, in the same kind of pool."""
        return self.mtp[module].cache_specs()

    def forward(self, tokens_T: torch.Tensor, batch: Batch, caches: Sequence[LayerCache] | None = None) -> torch.Tensor:
        """Token ids int64 [T] -> final hidden states [T, D] in the model's dtype.

        caches: one per mixer, as `cache_specs` declares; extended in place by this call. None: whole sequences.
        """
        x_TD = self.embed(tokens_T)
        return self.norm(run(self.sublayers, x_TD, batch, caches))

    def predict_next(
        self,
        next_tokens_T: torch.Tensor,
        hidden_TD: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache] | None = None,
        *,
        module: int = 0,
    ) -> torch.Tensor:
        """One step of multi-token prediction: hidden states [T, D] whose `head_logits` are of the token after the next.

        next_tokens_T: int64 [T], for each row the token that follows it. hidden_TD: `forward`'s result for the same
        rows, or this method's for the step before. batch: the one of the trunk's call (positions are the hidden
        states'). caches: one per mixer of the module (`mtp_cache_specs`), extended in place. module: which one; a
        module with shared weights (`MTPConfig.num_steps` > 1) is called again for each of its steps.
        """
        mtp = self.mtp[module]
        embedded_TD = (self.embed if mtp.embed is None else mtp.embed)(next_tokens_T)
        return mtp(embedded_TD, hidden_TD, batch, caches)

    def head_logits(self, hidden_TD: torch.Tensor, *, module: int | None = None) -> torch.Tensor:
        """Hidden states [R, D] -> logits [R, vocab], always fp32. module: of that multi-token prediction module."""
        own = None if module is None else self.mtp[module].head_projection
        projection = self.head_projection if own is None else own
        if hidden_TD.dtype == torch.float64:
            return rows.linear(hidden_TD, projection.linears[0].weight)
        return projection(hidden_TD)[0]

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
        if len(ids) == 0:
            raise RequestError(f"{name} is empty; give at least one token", param="prompt")
        wrong = next((token for token in ids if not 0 <= token < self.config.vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"{name} holds token id {wrong}; this model's ids are 0 to {self.config.vocab_size - 1}",
                param="prompt",
            )

    def projections(self) -> Iterator[Projection]:
        """Every matrix product of the model with packable weights."""
        for module in self.modules():
            yield from getattr(module, "projections", ()) if module is not self else ()
        yield self.head_projection

    def pack(self) -> Model:
        """Put weights into the CPU library's layout, once, for inference; results keep their bits. Undo: `unpack`."""
        for projection in self.projections():
            tied = projection is self.head_projection and self.config.tie_embeddings
            projection.pack(keep_plain=tied)
        return self

    def unpack(self) -> Model:
        """Plain, trainable weights again."""
        for projection in self.projections():
            projection.unpack()
        return self
