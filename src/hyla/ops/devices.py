"""Where tensors live: from a name to a device that is there, and when its work is done."""

from __future__ import annotations

import torch

from hyla.errors import ConfigError


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of a name as PyTorch writes it ("cpu", "cuda", "cuda:1"), with its index where it has one.

    Raises ConfigError, with what is there instead, for a name that means nothing or a device that this machine lacks.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device = {str(name)!r} is no device that PyTorch knows; write cpu, cuda or cuda:N"
        ) from error
    if device.type == "cpu":
        return device
    module = getattr(torch, device.type, None)
    count = module.device_count() if module is not None and hasattr(module, "device_count") else 0
    if device.type == "meta" or not count:
        raise ConfigError(f"device = {str(name)!r}: {_why_absent(device.type)}; use device = 'cpu'")
    if (device.index or 0) >= count:
        raise ConfigError(f"device = {str(name)!r}: this machine has {count} of that kind, numbered from 0")
    return torch.device(device.type, device.index or 0)


def _why_absent(kind: str) -> str:
    if kind == "cuda" and not torch.backends.cuda.is_built():
        return f"this build of PyTorch ({torch.__version__}) is for the CPU alone"
    return f"PyTorch {torch.__version__} finds no {kind} device on this machine"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given: before a clock is read. Nothing to wait for on the CPU."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
