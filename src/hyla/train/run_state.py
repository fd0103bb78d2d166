"""A run's state on the disk: weights, optimizer memory and the number of finished steps. That is all: the order of the
data and the schedule are functions of the step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from hyla.checkpoints.fetching import checksum
from hyla.errors import CheckpointError
from hyla.json_files import read_json
from hyla.models.trunk import Model
from hyla.ops import backends
from hyla.ops.devices import facts
from hyla.train.files import filling, replace_json
from hyla.train.optimizer import Optimizer


class DamagedState(CheckpointError):
    """A checkpoint of a run whose bytes are not those that were written."""


WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


def environment(device: torch.device) -> dict[str, str | int]:
    """What equal bits depend on besides config and data."""
    return {
        "device": str(device),
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "backend": backends.on(device),
        **facts(device),
    }


def changed_environment(before: Mapping[str, str | int], now: Mapping[str, str | int]) -> str:
    """What differs, as "name: old -> new"; empty when nothing that was recorded does.

    What only one kind of device has is left out.
    """
    return ", ".join(f"{name}: {old} -> {now[name]}" for name, old in before.items() if old != now.get(name, old))


def finished_states(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def save_state(folder: Path, model: Model, optimizer: Optimizer, *, step: int, seconds: float, kept: int) -> Path:
    """Write `folder/step-<step>` (appears whole, by rename) and remove all but the newest `kept` ones.

    Raises CheckpointError when the disk refuses; older checkpoints are as they were then.
    """
    from hyla.checkpoints.tensor_files import write_tensors

    path = folder / f"step-{step:08d}"
    with filling(path) as partial:
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
        write_tensors(weights, partial / WEIGHTS)
        memory = {key: tensor.cpu().contiguous() for key, tensor in optimizer.state_tensors().items()}
        write_tensors(memory, partial / OPTIMIZER)
        digests = {name: checksum(partial / name) for name in (WEIGHTS, OPTIMIZER)}
        found = {"step": step, "seconds": seconds, "environment": environment(model.device), "sha256": digests}
        replace_json(partial / STATE, found)
    for old in finished_states(folder)[:-kept]:
        shutil.rmtree(old)
    return path


def _read_state(path: Path) -> dict:
    """state.json of a checkpoint, once it and the files beside it were found to be what was written.

    Those of earlier versions have no digests, and are believed.
    """
    try:
        state = read_json(path / STATE)
        for name, digest in state.get("sha256", {}).items():
            if checksum(path / name) != digest:
                raise DamagedState(f"checkpoint {path} is damaged ({name} has other bytes than were written)")
        if path.name != f"step-{state['step']:08d}" or not {"seconds", "environment"} <= state.keys():
            raise DamagedState(f"checkpoint {path} is damaged ({STATE} does not describe it)")
    except DamagedState:
        raise
    except Exception as error:  # damaged JSON can be anything, and so can what it breaks
        raise DamagedState(f"checkpoint {path} is damaged ({error})") from None
    return state


def load_state(path: Path, model: Model, optimizer: Optimizer | None) -> dict:
    """Fill model (and optimizer) in place from a checkpoint; returns its state.json.

    Raises DamagedState when a file is missing or damaged, before anything is filled, and CheckpointError for another
    model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = _read_state(path)
    try:
        weights = load_file(path / WEIGHTS)
        memory = load_file(path / OPTIMIZER) if optimizer is not None else {}
    except (SafetensorError, OSError) as error:
        raise DamagedState(f"checkpoint {path} is damaged ({error})") from None
    parameters = dict(model.named_parameters())
    if parameters.keys() != weights.keys():
        wrong = sorted(parameters.keys() ^ weights.keys())[0]
        raise CheckpointError(f"checkpoint {path} belongs to another model: {wrong} is only in one of them")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise CheckpointError(
                    f"checkpoint {path}: {name} is {tuple(weights[name].shape)}, the model's {tuple(parameter.shape)}"
                )
            parameter.copy_(weights[name])
    if optimizer is not None:
        optimizer.load_state_tensors(memory)
    return state
