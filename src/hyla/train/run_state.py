"""A run's state on the disk: weights, optimizer memory, averages and a few numbers. That is all: the order of the data
and the schedule are functions of the step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from hyla.checkpoints.fetching import checksum
from hyla.checkpoints.tensor_files import write_tensors
from hyla.errors import CheckpointError
from hyla.json_files import read_json
from hyla.models.trunk import Model
from hyla.ops import backends
from hyla.ops.devices import facts
from hyla.train.averages import Average
from hyla.train.files import filling, replace_json
from hyla.train.optimizer import Optimizer
from hyla.train.precision import Masters


class DamagedState(CheckpointError):
    """A checkpoint of a run whose bytes are not those that were written."""


WEIGHTS, OPTIMIZER, AVERAGE = "weights.safetensors", "optimizer.safetensors", "average.safetensors"
STATE = "state.json"


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


def step_of(state: Path) -> int:
    """Finished steps of a checkpoint, as its name says them."""
    return int(state.name.removeprefix("step-"))


class StateMaker:
    """Writes and reads the state of one run: weights in fp32, the optimizer's memory, averaged weights."""

    def __init__(self, folder: Path, model: Model, masters: Masters, optimizer: Optimizer, average: Average | None):
        self.folder, self._model, self._masters = folder, model, masters
        self._optimizer, self._average = optimizer, average

    def save(self, facts: Mapping, *, kept: int) -> Path:
        """Write `folder/step-<facts["step"]>` (appears whole, by rename) and remove all but the newest `kept` ones.

        Raises CheckpointError when the disk refuses; older checkpoints are as they were then.
        """
        path = self.folder / f"step-{facts['step']:08d}"
        with filling(path) as partial:
            tensors = {WEIGHTS: self._masters.weights, OPTIMIZER: self._optimizer.state_tensors()}
            if self._average is not None:
                tensors[AVERAGE] = self._average.tensors()
                facts = {**facts, "averaged": self._average.count}
            for name, named in tensors.items():
                write_tensors({key: one.detach().cpu().contiguous() for key, one in named.items()}, partial / name)
            digests = {name: checksum(partial / name) for name in tensors}
            found = {**facts, "environment": environment(self._model.device), "sha256": digests}
            replace_json(partial / STATE, found)
        for old in finished_states(self.folder)[:-kept]:
            shutil.rmtree(old)
        return path

    def load(self, path: Path) -> dict:
        """Fill everything in place from a checkpoint; returns its state.json.

        Raises DamagedState when a file is missing or damaged, before anything is filled, and CheckpointError for
        another model's.
        """
        state = _read_state(path)
        weights, memory = _tensors(path, WEIGHTS), _tensors(path, OPTIMIZER)
        mean = _tensors(path, AVERAGE) if self._average is not None else {}
        self._check(path, weights)
        with torch.no_grad():
            for name, weight in self._masters.weights.items():
                weight.copy_(weights[name])
        self._optimizer.load_state_tensors(memory)
        if self._average is not None:
            self._average.load(mean, state["averaged"])
        self._masters.publish()
        return state

    def _check(self, path: Path, weights: Mapping[str, torch.Tensor]) -> None:
        ours = self._masters.weights
        if ours.keys() != weights.keys():
            wrong = sorted(ours.keys() ^ weights.keys())[0]
            raise CheckpointError(f"checkpoint {path} belongs to another model: {wrong} is only in one of them")
        for name, weight in ours.items():
            if weight.shape != weights[name].shape:
                raise CheckpointError(
                    f"checkpoint {path}: {name} is {tuple(weights[name].shape)}, the model's {tuple(weight.shape)}"
                )


def _tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path / name)
    except (SafetensorError, OSError) as error:
        raise DamagedState(f"checkpoint {path} is damaged ({error})") from None


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
