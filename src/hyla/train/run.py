"""A run's folder: requested once, prepared once, then only continued.

run.json            what was requested, what it was resolved to, on which data and machine
tokenizer/          trained on the training documents
tokens.safetensors  training (unless a store has them) and held-out documents as ids
heldout.json        names and texts of the held-out documents
metrics.jsonl       one line per step
checkpoints/        newest states
model/              the trained model as a Hugging Face folder
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator

from hyla.checkpoints import Tokenizer, save_model
from hyla.data.packing import TokenStore
from hyla.errors import ConfigError
from hyla.json_files import read_json
from hyla.models.config import Config, ModelConfig
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.devices import says_what_to_lower
from hyla.train.budget import steps_for
from hyla.train.config import TrainConfig
from hyla.train.corpus import Document
from hyla.train.files import filling, replace_json
from hyla.train.loop import Trainer
from hyla.train.metrics import StepMetrics
from hyla.train.recipe import HybridRecipe
from hyla.train.run_data import RunData, data_of_store, data_of_texts, is_store, load_data, save_data
from hyla.train.run_state import environment
from hyla.train.tokenizer import END_OF_TEXT_ID

CPU = torch.device("cpu")
RUN_FILE = "run.json"


class RunRequest(Config):
    """What the user asks for. A folder keeps its first request; another one needs another folder."""

    data: str | None = None
    """Folder of text files, or a token store; None: the source of the Python standard library found on this machine."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Training time, turned into `train.steps` once at the start; None: `train.steps` as it is."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Expected share of files that training never sees; a store has its own."""
    heldout_bytes: Annotated[int, Field(ge=1)] = 400_000
    """Most held-out text that is scored. More of it: a steadier figure, a longer wait."""
    recipe: HybridRecipe = HybridRecipe()
    """The model's sizes."""
    train: TrainConfig
    """How it is trained."""

    @model_validator(mode="after")
    def _data_is_absolute(self):
        if self.data is not None and not Path(self.data).is_absolute():
            raise ValueError("data must be an absolute path, so that a run can be continued from anywhere")
        return self


@dataclass(frozen=True)
class Trained:
    """A model after some or all of its run's steps. seconds: of those steps, earlier calls included."""

    model: Model
    steps: int
    planned_steps: int
    seconds: float

    @property
    def is_finished(self) -> bool:
        """Whether no step is left."""
        return self.steps >= self.planned_steps


@dataclass(frozen=True)
class Run:
    """An opened run. `train` and `model_config` are resolved; nothing in it changes any more."""

    folder: Path
    train: TrainConfig
    model_config: ModelConfig
    data: RunData
    record: dict

    @property
    def tokenizer(self) -> Tokenizer:
        return self.data.tokenizer

    @property
    def train_store(self) -> TokenStore:
        return self.data.train

    @property
    def heldout_store(self) -> TokenStore:
        return self.data.heldout

    @property
    def heldout(self) -> tuple[Document, ...]:
        """The held-out documents as texts."""
        return self.data.documents

    @property
    def request(self) -> RunRequest:
        return RunRequest(**self.record["request"])

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    def untrained(self, device: torch.device = CPU) -> Model:
        """A new model with the run's start values, which are the same on every device."""
        model = initialize(Model(self.model_config), self.train.seed)
        with says_what_to_lower(device, "the model", "choose smaller sizes in the recipe"):
            return model.to(device)

    def trained(
        self,
        on_step: Callable[[StepMetrics], None],
        on_resume: Callable[[int], None],
        *,
        device: torch.device = CPU,
        say: Callable[[str], None] = lambda line: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Trained:
        """Train, or continue, to the last step; on_resume gets the number of steps that were already there.

        device: where the run goes on; it is no part of the request. say: told when it was elsewhere before.
        is_stopped: asked after each step; once true, what there is gets kept, and a later call goes on bit for bit.
        """
        trainer = Trainer(self.untrained(device), self.train_store, self.train, self.folder)
        on_resume(trainer.resume(say))
        trainer.run(on_step, is_stopped)
        return Trained(trainer.model, trainer.finished_steps, self.train.steps, trainer.seconds)

    def save_model(self, model: Model) -> None:
        """Write the Hugging Face folder."""
        save_model(model, self.model_folder, tokenizer=self.tokenizer)


def open_run(folder: Path, request: RunRequest, say: Callable[[str], None], *, device: torch.device = CPU) -> Run:
    """The run in `folder`, prepared now if there is none. The folder appears whole or not at all.

    say: gets one line per stage. device: where a step is timed, if the request gives minutes. Raises ConfigError when
    the folder holds another run, or other files.
    """
    folder = folder.absolute()
    if (folder / RUN_FILE).is_file():
        check_same_request(folder, request)
        return read_run(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no run; choose another --out")
    prepare_run(folder, request, say, device)
    return read_run(folder)


def check_same_request(folder: Path, request: RunRequest) -> None:
    """Raise ConfigError unless the run in `folder` is the requested one."""
    record = read_json(folder / RUN_FILE)
    recorded, resolved = RunRequest(**record["request"]), TrainConfig(**record["train"])
    if request in (recorded, recorded.model_copy(update={"minutes": None, "train": resolved})):
        return
    old, new = _flat(recorded.model_dump()), _flat(request.model_dump())
    key = next((key for key in old if old[key] != new[key]), "minutes")
    raise ConfigError(
        f"{folder} holds a run with {key} = {old[key]}, not {new[key]}; choose another --out, or delete that folder"
    )


def _flat(nested: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in nested.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def prepare_run(folder: Path, request: RunRequest, say: Callable[[str], None], device: torch.device) -> None:
    """Read the data, or open its store, resolve the number of steps, and write all of it."""
    # What cannot be saved in the end is refused now, not after the training.
    model_config = request.recipe.model_config_of(request.recipe.vocab_size, END_OF_TEXT_ID)
    family_of(model_config.family).config_to_hf(model_config)
    if request.data is not None and is_store(request.data):
        data = data_of_store(request.data, request.heldout_bytes)
    else:
        sizes = {"heldout_share": request.heldout_share, "heldout_bytes": request.heldout_bytes}
        data = data_of_texts(request.data, request.recipe, **sizes, say=say)
    tokenizer = data.tokenizer
    say(f"tokenizer of {tokenizer.vocab_size} tokens; {len(data.train.tokens):,} tokens to train on")
    end_id = tokenizer.eos_token_id
    model_config = request.recipe.model_config_of(tokenizer.vocab_size, END_OF_TEXT_ID if end_id is None else end_id)
    train, step_seconds = resolve_steps(request, model_config, data.train, device)
    say(f"{train.steps} steps of {train.batch_tokens} tokens")
    with filling(folder) as partial:
        save_data(partial, data)
        replace_json(partial / RUN_FILE, _record(request, train, model_config, data.record, step_seconds, device))


def resolve_steps(
    request: RunRequest, model_config: ModelConfig, store: TokenStore, device: torch.device
) -> tuple[TrainConfig, float | None]:
    """(the config with its final number of steps, measured seconds of a step or None)."""
    if request.minutes is None:
        return request.train, None
    copy = initialize(Model(model_config), request.train.seed).to(device)
    steps, step_seconds = steps_for(request.minutes, copy, store, request.train)
    return request.train.model_copy(update={"steps": steps}), step_seconds


def _record(request, train: TrainConfig, model: ModelConfig, corpus: dict, step_seconds, device) -> dict:
    return {
        "request": request.model_dump(),
        "train": train.model_dump(),
        "model": model.model_dump(mode="json"),
        "corpus": corpus,
        "step_seconds": step_seconds,
        "python": platform.python_version(),
        "environment": environment(device),
    }


def read_run(folder: Path) -> Run:
    """Open a prepared run. Raises CheckpointError when one of its files is missing or damaged, and ConfigError when its
    token store is another one now."""
    record = read_json(folder / RUN_FILE)
    return Run(
        folder=folder,
        train=TrainConfig(**record["train"]),
        model_config=ModelConfig(**record["model"]),
        data=load_data(folder, record["corpus"]),
        record=record,
    )
