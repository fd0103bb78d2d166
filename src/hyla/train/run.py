"""A run's folder: requested once, prepared once, then only continued.

run.json            what was requested, what it was resolved to, on which data and machine
tokenizer/          trained on the training documents
tokens.safetensors  training (unless stores have them) and held-out documents as ids
heldout.json        names and texts of the held-out documents
metrics.jsonl       one line per step
heldout.jsonl       scores and samples along the way, if they are asked for
statistics.jsonl    figures of every sublayer along the way, if they are asked for
events.jsonl        what happened besides: kills survived, spikes, damaged checkpoints
memory.json         what the steps took, beside what they take on paper
tensorboard/        what TensorBoard reads, if it is asked for
checkpoints/        newest states
model/              the trained model as a Hugging Face folder
adapter/            the adapter in PEFT's format, if one was trained; model/ has it merged
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator

from hyla.adapters import LoraConfig, report
from hyla.checkpoints import Tokenizer, load_tokenizer
from hyla.data.packing import TokenStore
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config import Config, ModelConfig
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model
from hyla.ops.devices import says_what_to_lower
from hyla.train.budget import steps_for
from hyla.train.config import TrainConfig
from hyla.train.corpus import Document
from hyla.train.files import filling, replace_json
from hyla.train.loop import Trainer
from hyla.train.memory import MeasuredMemory, PeakWatch, memory_on_paper
from hyla.train.metrics import HeldoutMetrics, StepMetrics
from hyla.train.model_source import ModelSource, trained_digest
from hyla.train.preferences import DPOConfig, PairSource, PreferenceTrainer, read_pairs
from hyla.train.reporters import check_reporters, reports_of
from hyla.train.run_data import DataSource, RunData, load_data, read_data, save_data
from hyla.train.run_folder import RUN_FILE, check_start, differs, is_begun, keep_adapter, keep_model
from hyla.train.run_state import environment
from hyla.train.sources import RowSource, batch_sizes
from hyla.train.tokenizer import END_OF_TEXT_ID
from hyla.train.utilisation import Utilisation, utilisation

CPU = torch.device("cpu")
MEMORY_FILE = "memory.json"
FORMAT = 2


class RunRequest(Config):
    """What the user asks for. A folder keeps its first request; another one needs another folder."""

    model: ModelSource
    """What is trained."""
    data: DataSource = DataSource()
    """What it reads."""
    dpo: DPOConfig | None = None
    """Preferences in the place of `data`: a trained model learns which answers are better."""
    lora: LoraConfig | None = None
    """Train low-rank terms beside a trained model, which stays as it is."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Training time, turned into `train.steps` once at the start; None: `train.steps` as it is."""
    train: TrainConfig
    """How it is trained."""

    @model_validator(mode="after")
    def _preferences_stand_alone(self):
        if self.dpo is not None:
            if self.model.start_from is None:
                raise ValueError("dpo needs a trained model: set model.start_from")
            if self.data != DataSource():
                raise ValueError("dpo reads dpo.pairs; leave data out")
            wrong = next(
                (name for name in ("mtp_weight", "z_loss", "indexer", "carry_state") if getattr(self.train, name)), None
            )
            if wrong is not None or self.train.heldout is not None or self.train.ramp is not None:
                raise ValueError(f"dpo has no use for train.{wrong or 'heldout or train.ramp'}; leave it out")
        return self

    @model_validator(mode="after")
    def _adapters_stand_beside_something(self):
        if self.lora is not None:
            if self.model.start_from is None:
                raise ValueError("lora needs a trained model: set model.start_from")
            if self.train.trainable != ("*",):
                raise ValueError(
                    "lora says itself what is trained (targets, modules_to_save); leave train.trainable out"
                )
            if self.train.router.bias_rate:
                raise ValueError(
                    f"lora leaves the model as it is, and train.router.bias_rate = {self.train.router.bias_rate} would "
                    "change its routers, which no adapter holds; leave it out"
                )
        return self


@dataclass(frozen=True)
class Trained:
    """A model after some or all of its run's steps. seconds: of those steps, earlier calls included."""

    model: Model
    steps: int
    planned_steps: int
    seconds: float
    memory: MeasuredMemory | None = None
    """Of this call's steps; None where it took none, or the system does not say it."""

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

    @property
    def adapter_folder(self) -> Path:
        return self.folder / "adapter"

    def untrained(self, device: torch.device = CPU) -> Model:
        """The model that the run begins with, in fp32; the same on every device. Raises ConfigError where it began with
        a trained model that is another one now."""
        began, name = self.record.get("start_digest"), self.request.model.start_from
        if began is not None and name is not None:
            check_start(self.folder, name, began)
        model = self.request.model.made(self.model_config, self.train.seed)
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
        on_heldout: Callable[[HeldoutMetrics], None] = lambda metrics: None,
    ) -> Trained:
        """Train, or continue, to the last step; on_resume gets the number of steps that were already there.

        device: where the run goes on; it is no part of the request. say: told when it was elsewhere before.
        is_stopped: asked after each step; once true, what there is gets kept, and a later call goes on bit for bit.
        on_heldout: told of each score of held-out text along the way.
        """
        trainer = self._trainer(self.untrained(device))
        if trainer.adapters is not None:
            say(report(trainer.adapters))
        on_resume(trainer.resume(say))
        reports = reports_of(self.train.report, self.folder, self.record["request"])
        trainer.records.reports, trainer.decode = reports, self.tokenizer.decode
        try:
            memory = self._measured(trainer, lambda: trainer.run(on_step, is_stopped, say, on_heldout))
        finally:
            reports.close()
        trainer.keep_final_weights()
        if trainer.adapters is not None:
            keep_adapter(trainer.adapters, self.adapter_folder, self.request.model.start_from, self.tokenizer)
        return Trained(trainer.model, trainer.finished_steps, self.train.steps, trainer.seconds, memory)

    def _measured(self, trainer: Trainer, run: Callable[[], None]) -> MeasuredMemory | None:
        """Run, and write down how much memory the steps took."""
        before, watch = trainer.finished_steps, PeakWatch(trainer.model.device)
        run()
        grown, paper = watch.grown(), memory_on_paper(self.model_config, self.train)
        if grown is None or trainer.finished_steps == before:
            return None
        found = MeasuredMemory(paper.rows, grown, paper)
        replace_json(self.folder / MEMORY_FILE, found.record())
        return found

    def _source(self) -> RowSource:
        dpo = self.request.dpo
        if dpo is not None:
            return PairSource(self.data.train[0], dpo.pairs_per_step, self.train.seed)
        return self.data.steps(self.train)

    def _trainer(self, model: Model) -> Trainer:
        dpo, source = self.request.dpo, self._source()
        if isinstance(source, PairSource):
            assert dpo is not None
            return PreferenceTrainer(model, source, self.train, self.folder, dpo, self.request.lora)
        return Trainer(model, source, self.train, self.folder, self.heldout_store, self.request.lora)

    def utilisation(self, device: torch.device) -> Utilisation | None:
        """How a speed compares with the device's products, for documents of the lengths of the first step; None where
        that is not known, and of adapters, beside which most gradients are not computed."""
        if self.request.lora is not None:
            return None
        return utilisation(self.model_config, self.train, self._source().step(0).lengths, device)

    @property
    def total_tokens(self) -> int | None:
        """Rows of all steps; None where only their number is known before they are read."""
        return None if self.request.dpo is not None else batch_sizes(self.train).before(self.train.steps)

    def save_model(self, model: Model) -> None:
        """Write the Hugging Face folder, and remove what a killed process left of one."""
        keep_model(model, self.model_folder, self.tokenizer)


def open_run(folder: Path, request: RunRequest, say: Callable[[str], None], *, device: torch.device = CPU) -> Run:
    """The run in `folder`, prepared now if there is none. The folder appears whole or not at all.

    say: gets one line per stage. device: where a step is timed, if the request gives minutes. Raises ConfigError when
    the folder holds another run, or other files.
    """
    folder = folder.absolute()
    if is_begun(folder):
        check_same_request(folder, request)
        return read_run(folder)
    prepare_run(folder, request, say, device)
    return read_run(folder)


def check_same_request(folder: Path, request: RunRequest) -> None:
    """Raise ConfigError unless the run in `folder` is the requested one."""
    record = read_record(folder)
    recorded, resolved = RunRequest(**record["request"]), TrainConfig(**record["train"])
    if request in (recorded, recorded.model_copy(update={"minutes": None, "train": resolved})):
        return
    raise differs(folder, recorded, request)


def prepare_run(folder: Path, request: RunRequest, say: Callable[[str], None], device: torch.device) -> None:
    """Read the data, or open its store, resolve the number of steps, and write all of it."""
    check_reporters(request.train.report)
    source, pretrained = request.model, request.model.start_from
    vocab_size = None if pretrained else source.vocab_size
    # What cannot be saved in the end is refused now, not after the training.
    draft = source.model_config_of(source.draft_vocab_size, END_OF_TEXT_ID)
    family_of(draft.family).config_to_hf(draft)
    if request.dpo is not None:
        assert pretrained is not None
        data = read_preferences(request.dpo, pretrained, request.train.max_document_tokens, say)
    else:
        data = read_data(request.data, say, trained_from=pretrained, vocab_size=vocab_size, max_len=draft.max_len)
    tokenizer = data.tokenizer
    say(f"tokenizer of {tokenizer.vocab_size} tokens; {data.num_tokens:,} tokens to train on")
    end_id = tokenizer.eos_token_id
    model_config = source.model_config_of(tokenizer.vocab_size, END_OF_TEXT_ID if end_id is None else end_id)
    if tokenizer.vocab_size > model_config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model rows for {model_config.vocab_size}"
        )
    train, step_seconds = resolve_steps(request, model_config, data, device)
    say(f"{train.steps} steps of {train.batch_tokens} tokens")
    with filling(folder) as partial:
        save_data(partial, data)
        replace_json(partial / RUN_FILE, _record(request, train, model_config, data.record, step_seconds, device))


def resolve_steps(
    request: RunRequest, model_config: ModelConfig, data: RunData, device: torch.device
) -> tuple[TrainConfig, float | None]:
    """(the config with its final number of steps, measured seconds of a step or None)."""
    train = request.train
    if request.dpo is not None:
        if request.minutes is not None:
            raise ConfigError("dpo takes train.steps, not minutes")
        PairSource(data.train[0], request.dpo.pairs_per_step, train.seed)  # fewer pairs than a step are refused now
        return train, None
    steps = data.steps(train)
    if request.minutes is None:
        return train, None
    copy = request.model.made(model_config, train.seed).to(device)
    count, step_seconds = steps_for(request.minutes, copy, steps, train)
    return train.model_copy(update={"steps": count}), step_seconds


def read_preferences(dpo: DPOConfig, pretrained: str, longest: int, say: Callable[[str], None]) -> RunData:
    """The pairs of a new run, as the trained model's tokenizer and template write them."""
    tokenizer = load_tokenizer(pretrained)
    store = read_pairs(Path(dpo.pairs), tokenizer, max_document_tokens=longest, say=say)
    record = {"pairs": len(store.ends) // 2, "file": Path(dpo.pairs).name}
    return RunData(tokenizer, (store,), (1.0,), TokenStore.from_lists([]), (), record)


def _record(request, train: TrainConfig, model: ModelConfig, corpus: dict, step_seconds, device) -> dict:
    return {
        "format": FORMAT,
        "request": request.model_dump(),
        "train": train.model_dump(),
        "model": model.model_dump(mode="json"),
        "corpus": corpus,
        "start_digest": None if request.model.start_from is None else trained_digest(request.model.start_from),
        "step_seconds": step_seconds,
        "python": platform.python_version(),
        "environment": environment(device),
    }


def read_record(folder: Path) -> dict:
    """run.json. Raises CheckpointError for a run that another version of Hyla prepared."""
    record = read_json(folder / RUN_FILE)
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} holds a run of format {record.get('format')!r}, this version goes on with {FORMAT}; finish it "
            "with the version that began it, or choose another --out"
        )
    return record


def read_run(folder: Path) -> Run:
    """Open a prepared run. Raises CheckpointError when one of its files is missing or damaged, or it is another
    version's, and ConfigError when its token store is another one now."""
    record = read_record(folder)
    return Run(
        folder=folder,
        train=TrainConfig(**record["train"]),
        model_config=ModelConfig(**record["model"]),
        data=load_data(folder, record["corpus"]),
        record=record,
    )
