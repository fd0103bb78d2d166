"""Linear projections: separate parameters, one matrix product for all that read the same rows."""

from __future__ import annotations

import torch
from torch import nn

from hyla.errors import BackendUnavailable
from hyla.ops.exact.primitives import concatenated, scaled
from hyla.ops.weights import (
    Adapted,
    FP8Tensor,
    FP8Weights,
    HeadMatrices,
    HeadTiles,
    LowRank,
    Plain,
    Tiled,
    Weights,
    makes_tiles,
    pack,
    pack_heads,
    pack_stack,
)


class Linear(nn.Module):
    """Holds the `weight` [out_dim, in_dim] and, where it has one, the `bias` [out_dim]; a `Projection` computes."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, in_dim: int, out_dim: int, *, has_bias: bool = False):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim))
        self.bias = nn.Parameter(torch.empty(out_dim)) if has_bias else None


Holder = Linear | tuple[nn.Module, str]
"""Where a parameter is: a `Linear`'s weight, or a module's by name."""


class Projection:
    """One matrix product: parameters over one another, and how their numbers are stored now (`ops.weights`).

    Parameters are matrices [O, D], the experts' stacks [E, O, D], or one stack of heads (`head_layout`). Plain ones are
    read where they are, at every call, so they can be trained and replaced. `pack` and FP8 leave only their shapes
    behind (parameters on the meta device), so memory is not doubled. All kinds of storage give the same bits.

    `adapt` puts a low-rank term beside a parameter: it joins the product, whatever the parameter is stored as.

    Biases of its `Linear`s stay plain parameters beside any storage; they are added in fp32, and the sum with the
    product is rounded once.
    """

    def __init__(self, *holders: Holder, dtype: torch.dtype | None = None, head_layout: str | None = None):
        """dtype: compute in this dtype (rows and weights are cast), None: in the weights' own. head_layout: "in_out" or
        "out_in", the last two dimensions of one parameter that has a matrix a head; its products are in fp32."""
        self._places = [holder if isinstance(holder, tuple) else (holder, "weight") for holder in holders]
        self.dtype, self.head_layout = dtype, head_layout
        self.out_dims = [parameter.shape[-2] for parameter in self.parameters()]
        """Outputs of each of the parameters over one another."""
        self._tied: tuple[nn.Module, str] | None = None
        self._packed: Weights | None = None
        self._stored_dtype: torch.dtype | None = None
        self._fp8: dict[int, FP8Tensor] = {}
        self._terms: dict[int, LowRank] = {}

    def tie(self, module: nn.Module, name: str) -> None:
        """Say that a module's parameter is the first of these, too: an embedding's, which reads rows of it."""
        self._tied = (module, name)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that it computes with, from top to bottom; on the meta device when packed or FP8."""
        return [getattr(module, name) for module, name in self._places]

    @property
    def is_packed(self) -> bool:
        return self._packed is not None

    @property
    def stored(self) -> object:
        """Equal as long as packed and FP8 numbers, and what is beside them, stay where they are."""
        numbers = self._packed if self._packed is not None else tuple(map(id, self._fp8.values()))
        return (numbers, *map(id, self._terms.values())) if self._terms else numbers

    @property
    def is_quantised(self) -> bool:
        """Whether some of the weights are FP8. They stay so: there is nothing to pack."""
        return bool(self._fp8)

    @property
    def weights(self) -> Weights:
        """What it computes with now: packed, partly FP8 or plain; with the terms beside it, if there are some."""
        if not self._terms:
            return self._stored_weights
        if self.head_layout is not None:
            # Matrices of heads are small, and made anew for each call; others never are.
            merged = self._terms[0].merged(self.plain_weights()[0])
            return HeadMatrices(merged, self.head_layout == "out_in")
        terms = tuple(self._terms.get(place) for place in range(len(self._places)))
        return Adapted(self._stored_weights, terms, tuple(self.out_dims))

    @property
    def _stored_weights(self) -> Weights:
        if self._packed is not None:
            return self._packed
        parameters = self.parameters()
        if self._fp8:
            parts = tuple(self._fp8.get(place, parameter) for place, parameter in enumerate(parameters))
            return FP8Weights(parts, self.dtype or parameters[0].dtype)
        if self.head_layout is not None:
            return HeadMatrices(parameters[0], self.head_layout == "out_in")
        return Plain(tuple(parameters), self.dtype)

    def plain(self) -> torch.Tensor:
        """All parameters as one plain tensor in the dtype of the product, with its gradient.

        Raises BackendUnavailable while they are packed or FP8.
        """
        return self.plain_kind().whole()

    def plain_kind(self) -> Plain:
        """The weights, which are plain: they can be trained. Raises BackendUnavailable while they are packed or FP8."""
        weights = self.weights
        if isinstance(weights, Adapted):
            raise BackendUnavailable("a weight with a low-rank term has no plain form; merge the adapter first")
        if not isinstance(weights, Plain):
            raise BackendUnavailable("packed and FP8 weights are not trained; call model.unpack(), or load with dtype=")
        return weights

    def bias(self) -> torch.Tensor | None:
        """The biases [sum of out_dims], zeros for parameters without one; None where none has one."""
        held = [module.bias if isinstance(module, Linear) else None for module, _ in self._places]
        some = next((bias for bias in held if bias is not None), None)
        if some is None:
            return None
        parts = [some.new_zeros(size) if bias is None else bias for bias, size in zip(held, self.out_dims)]
        return parts[0] if len(parts) == 1 else concatenated(*parts)

    def fused(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Rows [T, D] -> [T, sum of out_dims]; of heads [T, H, in] -> [T, H, out]."""
        weights = self.weights
        return weights.product(scaled(x_TD, 1.0, weights.dtype), self.bias())

    def widened(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Rows [T, D] in any dtype -> fp32 [T, sum of out_dims], without biases: see `Weights.widened`."""
        return self.weights.widened(x_TD)

    def __call__(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows [T, D] -> one [T, out_dim] per parameter (views of one tensor)."""
        return self.fused(x_TD).split(self.out_dims, dim=-1)

    def pack(self) -> None:
        """Put the plain weights into the layout of the kernel or the library (inference only).

        A tied parameter stays plain where the layout does not give its rows back (the library's), and so does float64.
        """
        parameters = [parameter.detach() for parameter in self.parameters()]
        if self.is_packed or self.is_quantised or parameters[0].dtype == torch.float64:
            return
        self._stored_dtype = parameters[0].dtype
        self._packed = self._pack(parameters)
        if self._tied is None or isinstance(self._packed, Tiled):
            for place, parameter in enumerate(parameters):
                self._leave_shape(place, parameter.dtype)

    def renew(self, parts: list[torch.Tensor]) -> None:
        """Put other numbers in the place of all its parameters', which are plain or packed and stay so: one plain
        tensor for each of `parameters()`, of its shape and stored dtype. They are copied."""
        for parameter, part in zip(self.parameters(), parts, strict=True):
            if not parameter.is_meta:
                parameter.detach().copy_(part)
        if self._packed is not None:  # only tiles are surely a copy
            self._packed = self._pack([part.detach() if self.tiles(part) else part.detach().clone() for part in parts])

    def tiles(self, weight: torch.Tensor) -> bool:
        """Whether `pack` would copy such a weight of its own into tiles, and keep nothing of its memory."""
        return self.head_layout is None and makes_tiles(weight, self.dtype)

    def _pack(self, parts: list[torch.Tensor]) -> Weights:
        if self.head_layout is not None:
            return pack_heads(parts[0], self.head_layout == "out_in")
        return (pack if parts[0].dim() == 2 else pack_stack)(*parts, dtype=self.dtype)

    def plain_weights(self) -> list[torch.Tensor]:
        """The plain weight of each parameter, in its stored dtype, without unpacking the projection."""
        if self._packed is None:
            return [parameter.detach() for parameter in self.parameters()]
        if isinstance(self._packed, (HeadMatrices, HeadTiles)):
            return [self._packed.in_place().to(self._stored_dtype)]
        return list(self._packed.dense().to(self._stored_dtype).split(self.out_dims, dim=-2))

    def unpack(self) -> None:
        """Undo `pack`: plain, trainable parameters again."""
        if self._packed is None:
            return
        for place, weight in enumerate(self.plain_weights()):
            module, name = self._places[place]
            if getattr(module, name).is_meta:
                self._put(place, nn.Parameter(weight.clone()))
        self._packed = None

    def adapt(self, place: int, term: LowRank | None) -> None:
        """Put a low-rank term beside the parameter of a place, instead of the one that is there; None: take it away."""
        self._terms.pop(place, None)
        if term is not None:
            self._terms[place] = term

    @property
    def terms(self) -> dict[int, LowRank]:
        """The low-rank terms by place."""
        return dict(self._terms)

    def fp8(self, place: int) -> FP8Tensor | None:
        """The FP8 tensor that is kept in the place of a parameter, if that is what it holds."""
        return self._fp8.get(place)

    def keep_fp8(self, place: int, tensor: FP8Tensor) -> None:
        """Keep an FP8 tensor in the place of a parameter of an unpacked projection; the parameter becomes a shape."""
        self._fp8[place] = tensor
        self._leave_shape(place, tensor.dtype)

    def drop_fp8(self, place: int) -> None:
        """Forget an FP8 tensor; the parameter must be given its numbers then."""
        self._fp8.pop(place, None)

    def _leave_shape(self, place: int, dtype: torch.dtype) -> None:
        module, name = self._places[place]
        blank = torch.empty(getattr(module, name).shape, dtype=dtype, device="meta")
        self._put(place, nn.Parameter(blank, requires_grad=False))

    def _put(self, place: int, parameter: nn.Parameter) -> None:
        for module, name in [self._places[place], *([] if self._tied is None else [self._tied])]:
            setattr(module, name, parameter)
