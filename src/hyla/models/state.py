"""A model's weights by name, whatever they are stored as: read them plain, put others in their place."""

from __future__ import annotations

import torch
from torch import nn

from hyla.errors import CheckpointError
from hyla.layers.linear import Projection
from hyla.layers.parameters import Parameter, by_name
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.ops.weights import FP8Tensor


class NamedWeights:
    """Reads and assigns the named tensors of a model. Tied embeddings count once, under `embed.weight`."""

    def __init__(self, model: Model):
        self.model = model
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Every weight's name and shape."""
        names_by_id = {}
        for name, tensor in [*model.named_parameters(), *_persistent_buffers(model)]:
            self.shapes[name] = tuple(tensor.shape)
            names_by_id[id(tensor)] = name
        self.projections: dict[str, list[tuple[Projection, int]]] = {}
        """The products that compute with each weight, and its place in them, by name."""
        for projection in model.projections():
            for place, parameter in enumerate(projection.parameters()):
                self.projections.setdefault(names_by_id[id(parameter)], []).append((projection, place))
        self._rows = by_name(model_parameters(model.config))
        self._latest: tuple[Projection | None, list[torch.Tensor]] = (None, [])

    def row(self, name: str) -> Parameter | None:
        """The row of a weight in the model's table; None for a buffer."""
        return self._rows.get(name)

    def read(self, name: str) -> torch.Tensor:
        """The plain tensor; of a packed or FP8 weight, a copy."""
        stored = self.fp8(name)
        if stored is not None:
            return stored.dense()
        tensor = self._held(name)
        if not tensor.is_meta:
            return tensor.detach()
        for projection, place in self.projections.get(name, ()):
            if projection.is_packed:
                if self._latest[0] is not projection:  # its other weights come next: unpack them together
                    self._latest = (projection, projection.plain_weights())
                return self._latest[1][place]
        return tensor.detach()

    def assign(self, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor of the right shape in the place of the named weight of an unpacked product."""
        self._check_shape(name, tuple(tensor.shape))
        for projection, place in self.projections.get(name, ()):
            projection.drop_fp8(place)
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        held = nn.Parameter(tensor) if leaf in module._parameters else tensor
        setattr(module, leaf, held)
        if name == "embed.weight" and self.model.config.tie_embeddings:
            setattr(self.model.head, leaf, held)

    def copy(self, name: str, tensor: torch.Tensor) -> None:
        """Overwrite the numbers of a named weight that no product has, where they are."""
        self._check_shape(name, tuple(tensor.shape))
        self._held(name).detach().copy_(tensor)

    def names_of(self, projection: Projection) -> list[str]:
        """The weights of a product, from top to bottom."""
        found = [
            (place, name) for name, places in self.projections.items() for one, place in places if one is projection
        ]
        return [name for _, name in sorted(found)]

    def fp8(self, name: str) -> FP8Tensor | None:
        """The FP8 tensor in the place of a weight, if that is what it holds."""
        kept = (projection.fp8(place) for projection, place in self.projections.get(name, ()))
        return next((tensor for tensor in kept if tensor is not None), None)

    def may_be_quantised(self, name: str) -> bool:
        """Whether the weight's product can compute with FP8. A head's cannot: its loss reads it plain."""
        row = self.row(name)
        return row is not None and row.is_quantisable

    def assign_fp8(self, name: str, tensor: FP8Tensor) -> None:
        """Put an FP8 tensor in the place of the named weight, which becomes a shape without memory."""
        self._check_shape(name, tensor.shape)
        for projection, place in self.projections[name]:
            projection.keep_fp8(place, tensor)

    def dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """The dtype that a weight has in a model of `dtype`: fp32 at least where its row asks for it."""
        row = self.row(name)
        return torch.promote_types(dtype, torch.float32) if row is not None and row.is_fp32 else dtype

    def held_dtype(self, name: str) -> torch.dtype:
        """The dtype that a weight has, or, while it is packed or FP8, stands for."""
        return self._held(name).dtype

    def _held(self, name: str) -> torch.Tensor:
        path, _, leaf = name.rpartition(".")
        return getattr(self.model.get_submodule(path), leaf)

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if shape != self.shapes[name]:
            raise CheckpointError(f"{name} has shape {shape}; the model's is {self.shapes[name]}")


def resident_bytes(model: Model) -> int:
    """Memory of an unpacked model's weights as they are kept: FP8 ones by their codes and scales."""
    weights = NamedWeights(model)
    total = 0
    for name in weights.shapes:
        stored = weights.fp8(name)
        total += weights.read(name).nbytes if stored is None else stored.nbytes
    return total


def _persistent_buffers(model: Model) -> list[tuple[str, torch.Tensor]]:
    kept = model.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def cast(model: Model, dtype: torch.dtype) -> Model:
    """All floating-point weights of an unpacked model to `dtype`, in place; what must stay fp32 stays. Returns it."""
    weights = NamedWeights(model)
    for name in weights.shapes:
        tensor = weights.read(name)
        if tensor.is_floating_point():
            weights.assign(name, tensor.to(weights.dtype(name, dtype)))
    return model
