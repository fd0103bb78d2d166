"""A model's weights by name, plain, whether or not they are packed for inference."""

from __future__ import annotations

import torch
from torch import nn

from hyla.errors import CheckpointError
from hyla.models.trunk import Model
from hyla.ops.quant import FP8Tensor


class Weights:
    """Reads and assigns the named tensors of a model. Tied embeddings count once, under `embed.weight`."""

    def __init__(self, model: Model):
        self.model = model
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Every weight's name and shape."""
        names_by_id = {}
        for name, tensor in [*model.named_parameters(), *_persistent_buffers(model)]:
            self.shapes[name] = tuple(tensor.shape)
            names_by_id[id(tensor)] = name
        self._packed = {}
        for projection in model.projections():
            for place, parameter in enumerate(projection.parameters()):
                if parameter.is_meta and projection.is_packed:
                    self._packed[names_by_id[id(parameter)]] = (projection, place)
        self._latest = (None, [])

    def read(self, name: str) -> torch.Tensor:
        """The plain tensor; of a packed or FP8 weight, a copy."""
        stored = self.quantised(name)
        if stored is not None:
            return stored.dense()
        if name not in self._packed:
            return self.model.get_parameter(name).detach() if self._is_parameter(name) else self.model.get_buffer(name)
        projection, place = self._packed[name]
        if self._latest[0] is not projection:  # its other weights come next: unpack them together
            self._latest = (projection, projection.plain_weights())
        return self._latest[1][place]

    def assign(self, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor of the right shape in the place of the named weight."""
        if tuple(tensor.shape) != self.shapes[name]:
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}; the model's is {self.shapes[name]}")
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        if self.quantised(name) is not None:
            del module.quantised[leaf]
        setattr(module, leaf, nn.Parameter(tensor) if self._is_parameter(name) else tensor)
        if name == "embed.weight" and self.model.config.tie_embeddings:
            self.model.head.weight = self.model.embed.weight

    def quantised(self, name: str) -> FP8Tensor | None:
        """The FP8 tensor in the place of a weight, if that is what it holds."""
        path, _, leaf = name.rpartition(".")
        return getattr(self.model.get_submodule(path), "quantised", {}).get(leaf)

    def may_be_quantised(self, name: str) -> bool:
        """Whether the weight's module can compute with FP8. A head cannot: its loss reads it plain."""
        path, _, leaf = name.rpartition(".")
        return path.split(".")[-1] != "head" and leaf in getattr(self.model.get_submodule(path), "quantisable", ())

    def assign_quantised(self, name: str, tensor: FP8Tensor) -> None:
        """Put an FP8 tensor in the place of the named weight, which becomes a shape without memory."""
        if tensor.shape != self.shapes[name]:
            raise CheckpointError(f"{name} has shape {tensor.shape}; the model's is {self.shapes[name]}")
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        blank = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        setattr(module, leaf, nn.Parameter(blank, requires_grad=False))
        module.quantised[leaf] = tensor

    def dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """The dtype that a weight has in a model of `dtype`: fp32 at least where its module asks for it."""
        path, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(path)
        is_wide = leaf in getattr(module, "fp32_parameters", ())
        return torch.promote_types(dtype, torch.float32) if is_wide else dtype

    def _is_parameter(self, name: str) -> bool:
        path, _, leaf = name.rpartition(".")
        return leaf in self.model.get_submodule(path)._parameters


def resident_bytes(model: Model) -> int:
    """Memory of an unpacked model's weights as they are kept: FP8 ones by their codes and scales."""
    weights = Weights(model)
    found = [weights.quantised(name) for name in weights.shapes]
    plain = [weights.read(name) for name, stored in zip(weights.shapes, found) if stored is None]
    return sum(tensor.nbytes for tensor in (*plain, *(stored for stored in found if stored is not None)))


def _persistent_buffers(model: Model):
    kept = model.state_dict(keep_vars=True)
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def cast(model: Model, dtype: torch.dtype) -> Model:
    """All floating-point weights of an unpacked model to `dtype`, in place; what must stay fp32 stays. Returns it."""
    weights = Weights(model)
    for name in weights.shapes:
        tensor = weights.read(name)
        if tensor.is_floating_point():
            weights.assign(name, tensor.to(weights.dtype(name, dtype)))
    return model
