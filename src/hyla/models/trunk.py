"""The one trunk: a residual stream with a list of sublayers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from hyla.errors import RequestError
from hyla.layers.linear import Linear, Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.build import build_module
from hyla.models.config import MIXER_KINDS, ModelConfig, SublayerConfig
from hyla.ops import rows
from hyla.ops.batch import Batch
from hyla.ops.primitives import wide


class Sublayer(nn.Module):
    """x + module(norm(x)), or alpha norm(x) + beta module(norm(x)) with a scaled residual."""

    def __init__(self, config: SublayerConfig, hidden_dim: int):
        super().__init__()
        self.is_mixer = config.module.kind in MIXER_KINDS
        self.norm = RMSNorm(hidden_dim, eps=config.norm.eps, zero_centered=config.norm.zero_centered)
        self.module = build_module(config.module, hidden_dim)
        self.residual = config.residual

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        normed_TD = self.norm(x_TD)
        y_TD = self.module(normed_TD, batch, cache) if self.is_mixer else self.module(normed_TD)
        if self.residual is None:
            return x_TD + y_TD
        return (wide(normed_TD) * self.residual.alpha + wide(y_TD) * self.residual.beta).to(x_TD.dtype)


class Model(nn.Module):
    """A language model over packed batches of token ids."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # Left blank like every other weight: nn.Embedding's own random start costs seconds, on the meta device as well.
        blank_VD = torch.empty(config.vocab_size, config.hidden_dim)
        self.embed = nn.Embedding.from_pretrained(blank_VD, freeze=False)
        self.sublayers = nn.ModuleList(Sublayer(sub, config.hidden_dim) for sub in config.sublayers)
        self.norm = RMSNorm(config.hidden_dim, eps=config.final_norm.eps, zero_centered=config.final_norm.zero_centered)
        self.head = Linear(config.hidden_dim, config.vocab_size)
        if config.tie_embeddings:
            self.head.weight = self.embed.weight
        self.head_projection = Projection(self.head, dtype=torch.float32)
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
        return tuple(sub.module.cache_spec() for sub in self.sublayers if sub.is_mixer)

    def forward(self, tokens_T: torch.Tensor, batch: Batch, caches: Sequence[LayerCache] | None = None) -> torch.Tensor:
        """Token ids int64 [T] -> final hidden states [T, D] in the model's dtype.

        caches: one per mixer, as `cache_specs` declares; extended in place by this call. None: whole sequences.
        """
        x_TD = self.embed(tokens_T)
        remaining = iter(caches) if caches is not None else None
        for sublayer in self.sublayers:
            cache = next(remaining) if remaining is not None and sublayer.is_mixer else None
            x_TD = sublayer(x_TD, batch, cache)
        return self.norm(x_TD)

    def head_logits(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Hidden states [R, D] -> logits [R, vocab], always fp32."""
        dtype = self.head_projection.dtype if hidden_TD.dtype != torch.float64 else torch.float64
        if dtype == torch.float64:
            return rows.linear(hidden_TD, self.head.weight)
        return self.head_projection(hidden_TD)[0]

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
