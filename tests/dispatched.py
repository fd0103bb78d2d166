"""Which of PyTorch's operations a call runs, views and fresh memory apart."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {
    "alias", "as_strided", "chunk", "detach", "expand", "flatten", "narrow", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
MEMORY = {"empty", "empty_like", "new_empty", "empty_strided"}


class Dispatched(TorchDispatchMode):
    """Collects the names of what is no view and no fresh memory, in `found`."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS | MEMORY:
            self.found.append(name)
        return func(*args, **(kwargs or {}))
