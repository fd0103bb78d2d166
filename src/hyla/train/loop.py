"""The training loop: forward, backward, clip, update, write a line, sometimes a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.adapters import LoraConfig, attach
from hyla.data.packing import PackedRows, TokenStore
from hyla.errors import ConfigError, DivergedError
from hyla.layers.carry import Carry
from hyla.models.objective import Losses, Targets
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.ops.devices import says_what_to_lower, synchronize
from hyla.ranges import named_range
from hyla.train.averages import Average
from hyla.train.config import TrainConfig
from hyla.train.events import Kind
from hyla.train.heldout import Decode, numbers, score_heldout
from hyla.train.indexers import teach
from hyla.train.memory_use import memory_use
from hyla.train.metrics import HeldoutMetrics, StepLines, StepMetrics
from hyla.train.optimizer import Optimizer
from hyla.train.precision import Masters, freeze
from hyla.train.recomputation import recompute
from hyla.train.records import Records
from hyla.train.routing import Load, Routing
from hyla.train.run_state import (
    DamagedState,
    StateMaker,
    changed_environment,
    environment,
    finished_states,
    step_of,
)
from hyla.train.sources import RowSource
from hyla.train.spikes import SpikeWatch
from hyla.train.statistics import statistics

SMALLER_STEPS = "lower micro_batch_tokens or batch_tokens, loss_rows or the model's sizes, or set recompute.kinds"


@dataclass(frozen=True)
class StepResult:
    """What one step found. losses: by the trainer's `names`. fault: why it changed nothing; None: it was taken."""

    losses: dict[str, float]
    rate: float
    norm: float
    fault: str | None


class Trainer:
    """One run: a model with start values, its rows, a config, and a folder to resume from and write to.

    Exactness: with equal config, rows, start values and environment, every step's loss has the same bits, in one
    process or across any number of killed ones.
    """

    names: tuple[str, ...] = ("loss", "mtp_loss", "z_loss", "indexer_loss")
    """Fields of `StepMetrics`, for what `_losses` gives after its total."""

    def __init__(
        self,
        model: Model,
        source: RowSource,
        config: TrainConfig,
        folder: Path,
        heldout: TokenStore | None = None,
        lora: LoraConfig | None = None,
    ):
        """model: in fp32; it becomes one of `config.dtype`. heldout: scored along the way if the config says so. lora:
        an adapter is trained, and the model is frozen."""
        self.model, self.config, self.folder, self.source, self.heldout = model, config, folder, source, heldout
        if config.mtp_weight and not model.num_mtp_steps:
            raise ConfigError(
                f"mtp_weight = {config.mtp_weight}, but the model has no multi-token prediction; leave it out"
            )
        self.lesson = teach(model, None if config.indexer is None else config.indexer.stage)
        freeze(model, config.learnt)
        if config.carry_state and not any(spec.slot_tensors for spec in model.cache_specs()):
            raise ConfigError("carry_state: no mixer of the model has a state that could go on; leave it out")
        self._carries: list[Carry] = []
        recompute(model, config.recompute)
        self.adapters = None if lora is None else attach(model, lora, seed=config.seed)
        beside = {} if self.adapters is None else self.adapters.beside()
        self.masters = Masters(model, config.dtype, beside)
        if not self.masters.weights:
            raise ConfigError("nothing is trainable; see train.trainable")
        self.routing = Routing(model, config.router)
        self.optimizer = Optimizer(self.masters.weights, model_parameters(model.config), config)
        self.average = None
        if config.average is not None:
            self.average = Average(self.masters.weights, config.average, config.steps)
        self.spikes = SpikeWatch(config.spikes)
        self.records = Records(folder)
        self.decode: Decode = numbers
        """Token ids as text, for samples."""
        self._loads: list[Load] = []
        self.finished_steps, self.seconds = 0, 0.0
        self.skipped_data = 0
        """Steps' worth of rows that were passed over when a run went back."""
        self._states = StateMaker(folder / "checkpoints", model, self.masters, self.optimizer, self.average)

    @property
    def metrics(self) -> StepLines[StepMetrics]:
        """The line of every finished step."""
        return self.records.steps

    def _tell(self, say: Callable[[str], None], step: int, kind: Kind, text: str) -> None:
        """Say it, and write it down."""
        say(text)
        self.records.event(step, kind, text)

    def resume(self, say: Callable[[str], None] = lambda line: None) -> int:
        """Continue from the newest whole checkpoint, if there is one; returns the number of finished steps.

        say: told when a newer one is damaged, and when the checkpoint was written on another device, or by another
        arithmetic. Raises CheckpointError when all are damaged, or of another model.
        """
        state = self._newest_state(say)
        if state is not None:
            changes = changed_environment(state["environment"], environment(self.model.device))
            if changes:
                text = f"continued on another machine or device ({changes}): from here on the run's bits differ"
                self._tell(say, self.finished_steps, "moved", text)
        self._forget_later_lines()
        return self.finished_steps

    def _newest_state(self, say: Callable[[str], None]) -> dict | None:
        """The state.json of the newest checkpoint that is whole, once everything is filled from it."""
        states = finished_states(self._states.folder)
        for number, path in enumerate(reversed(states), start=1):
            try:
                state = self._states.load(path)
            except DamagedState as error:
                if number == len(states):
                    raise DamagedState(
                        f"{error}, and there is no older one; delete {path.parent} and start anew"
                    ) from None
                self._tell(say, step_of(path), "damaged", f"{error}; going on from the one before")
                continue
            self.finished_steps, self.seconds = state["step"], state["seconds"]
            self.skipped_data = state.get("skipped_data", 0)
            self.spikes.count = state.get("spikes", 0)
            return state
        return None

    def _forget_later_lines(self) -> None:
        self.records.go_back_to(self.finished_steps)
        self.spikes.forget()
        for line in self.metrics.read():
            if line.spike is None:
                self.spikes.accept(line.grad_norm)

    def update(self, step: int) -> StepResult:
        """Take one optimizer step. Raises CapacityError when the device has too little memory for it."""
        doing = f"a training step of {self.source.sizes.of(step)} tokens"
        with says_what_to_lower(self.model.device, doing, SMALLER_STEPS):
            return self._update(step)

    def _update(self, step: int) -> StepResult:
        losses = self._gradients(self.source.step(step + self.skipped_data))
        weights = self.masters.weights.values()
        with named_range("clip"):
            norm = torch.nn.utils.clip_grad_norm_(weights, self.config.clip_norm)
        # One copy to the host a step.
        *found, norm = torch.stack([*losses, norm.double()]).tolist()
        losses = dict(zip(self.names, found))
        fault = self.spikes.fault(losses["loss"], norm)
        if fault is not None:
            for weight in weights:
                weight.grad = None
            return StepResult(losses, 0.0, norm, fault)
        with named_range("optimizer"):
            rate = self.optimizer.step(step)
            self.routing.update_biases()
            self.masters.publish()
        self.spikes.accept(norm)
        if self.average is not None:
            self.average.update(step + 1)
        return StepResult(losses, rate, norm, None)

    def _gradients(self, rows: PackedRows) -> list[torch.Tensor]:
        """Leave a step's gradients at the masters: the ordered sum over its passes. Returns the losses that have
        `names`, float64.

        A step in which nothing is to be learnt has no loss and no gradient.
        """
        denominator = rows.denominator
        sums = [torch.zeros((), dtype=torch.float64, device=self.model.device) for _ in self.names]
        self.routing.begin()
        for part in self._passes(rows):
            if not part.num_learnt:
                self._read(part)
                continue
            self.routing.forward_pass(True, denominator)
            with named_range("forward"):
                losses = self._losses(part.to(self.model.device), denominator)
            self.routing.forward_pass(False, denominator)
            with named_range("backward"):
                losses.total.backward()
            self.masters.collect()
            sums = [total + one.double() for total, one in zip(sums, losses[1:])]
        return sums

    def _passes(self, rows: PackedRows) -> list[PackedRows]:
        """What is computed at once, in order."""
        config = self.config
        if config.carry_state:
            return rows.pieces_in_turn(config.max_document_tokens, config.micro_batch_tokens)
        return rows.micro_batches(config.micro_batch_tokens)

    def _carried(self, rows: PackedRows) -> list[Carry] | None:
        """What the mixers go on from in this pass, and leave for the next one."""
        if not self.config.carry_state:
            return None
        if rows.goes_on is None:
            self._carries = self.model.carries()
        else:
            self._carries = [carry.next(rows.goes_on) for carry in self._carries]
        return self._carries

    @torch.no_grad()
    def _read(self, rows: PackedRows) -> None:
        """A pass in which nothing is learnt: only what comes after it needs it."""
        if self.config.carry_state:
            rows = rows.to(self.model.device)
            self.model(rows.tokens_T, rows.batch, self._carried(rows))

    def _losses(self, rows: PackedRows, denominator: int) -> Losses:
        """Of one pass, sums over its rows divided by `denominator`."""
        config = self.config
        targets = Targets(
            rows.targets_T,
            config.loss_rows,
            None if rows.is_learnt_T is None or bool(rows.is_learnt_T.all()) else rows.is_learnt_T,
            denominator,
            mtp_weight=config.mtp_weight,
            z_weight=config.z_loss,
            lesson=self.lesson,
            indexer_weight=1.0 if config.indexer is None else config.indexer.weight,
        )
        return self.model(rows.tokens_T, rows.batch, self._carried(rows), targets=targets)

    def run(
        self,
        on_step: Callable[[StepMetrics], None] = lambda metrics: None,
        is_stopped: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda line: None,
        on_heldout: Callable[[HeldoutMetrics], None] = lambda metrics: None,
    ) -> None:
        """Train up to `config.steps`, or to the end of the step in which `is_stopped` comes true.

        on_step is called after each step, on_heldout after each score; say: of steps that went wrong. Ends with a
        checkpoint, so that a stopped run can go on. Raises ConfigError where a step goes wrong and the config says to
        stop.
        """
        if self.finished_steps == self.config.steps:
            return
        self._begin()
        if self.model.num_mtp_steps and not self.config.mtp_weight:
            say("the model's multi-token prediction is left as it is, since mtp_weight = 0: it will guess worse")
        if self.config.spikes.action == "rollback" and not finished_states(self._states.folder):
            self.save()
        while self.finished_steps < self.config.steps and not is_stopped():
            started = time.perf_counter()
            result = self.update(self.finished_steps)
            synchronize(self.model.device)
            if result.fault is not None and self._went_back(result, say):
                continue
            line = self._line(result, time.perf_counter() - started)
            self.records.add(line)
            on_step(line)
            self._score_heldout(on_heldout)
            self._look_inside()
            is_last = self.finished_steps == self.config.steps or is_stopped()
            if self.finished_steps % self.config.checkpoint_every == 0 or is_last:
                self.save()
        is_finished = self.finished_steps == self.config.steps
        text = f"after step {self.finished_steps} of {self.config.steps}"
        self.records.event(self.finished_steps, "finished" if is_finished else "stopped", text)

    def _begin(self) -> None:
        """Say in the run's files that a process works on it now."""
        step, steps = self.finished_steps, self.config.steps
        text = f"continuing after step {step} of {steps}" if step else f"{steps} steps"
        self.records.event(step, "resumed" if step else "began", f"{text}, on {self.model.device}")
        self.records.start_reports(step)

    def _line(self, result: StepResult, elapsed: float) -> StepMetrics:
        """Count a step."""
        step, sizes = self.finished_steps, self.source.sizes
        self.finished_steps, self.seconds = step + 1, self.seconds + elapsed
        self._loads = self.routing.end()
        memory = memory_use(self.model.device)
        return StepMetrics(
            step=step + 1,
            **result.losses,
            learning_rate=result.rate,
            grad_norm=result.norm,
            tokens=sizes.before(step + 1),
            tokens_per_second=sizes.of(step) / elapsed,
            seconds=self.seconds,
            expert_load=max((load.largest for load in self._loads), default=None),
            memory_bytes=None if memory is None else memory.now,
            peak_memory_bytes=None if memory is None else memory.peak,
            spike=result.fault,
        )

    def _went_back(self, result: StepResult, say: Callable[[str], None]) -> bool:
        """What the config says of a step that went wrong; whether the run is at an earlier step now."""
        config, step = self.config, self.finished_steps
        self.spikes.count += 1
        fault = f"step {step + 1}: {result.fault}"
        if config.spikes.action == "stop" or self.spikes.count > config.spikes.most:
            often = f", spike number {self.spikes.count}" if config.spikes.action != "stop" else ""
            self.records.event(step, "failed", fault + often)
            raise DivergedError(
                f"{fault}{often}; lower learning_rate = {config.learning_rate} or clip_norm = {config.clip_norm}, or "
                f"set spikes.action to skip or rollback (now {config.spikes.action}, at most {config.spikes.most})"
            )
        if config.spikes.action == "skip":
            self._tell(say, step, "spike", f"{fault}; left out")
            return False
        count, skipped = self.spikes.count, self.skipped_data
        self._newest_state(say)
        self.spikes.count = count
        self.skipped_data = skipped + step - self.finished_steps + 1
        self._forget_later_lines()
        self.records.start_reports(self.finished_steps)
        text = f"{fault}; back to step {self.finished_steps}, over the data of {step - self.finished_steps + 1} steps"
        self._tell(say, step, "rollback", text)
        return True

    def _score_heldout(self, on_heldout: Callable[[HeldoutMetrics], None]) -> None:
        """Held-out text, when it is time."""
        config, step = self.config.heldout, self.finished_steps
        if config is None or self.heldout is None or (step % config.every and step != self.config.steps):
            return
        with self.final_weights():
            window = self.config.max_document_tokens
            line = score_heldout(self.model, self.heldout, config, step=step, window=window, decode=self.decode)
        self.records.add(line)
        on_heldout(line)

    def _look_inside(self) -> None:
        """Figures of every sublayer on the step's first rows, when it is time."""
        config, step = self.config.statistics, self.finished_steps
        if config is None or step % config.every:
            return
        rows = self.source.step(step - 1 + self.skipped_data)
        self.records.add_statistics(statistics(self.model, step, rows, config.rows, self._loads))

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """Inside, the model has the weights that the run is judged by: the averaged ones, where there are such."""
        with self.average.in_place() if self.average is not None else nullcontext():
            self.masters.publish()
            yield
        self.masters.publish()

    def keep_final_weights(self) -> None:
        """Leave them in the model for good, once the run is over or stopped."""
        teach(self.model, None)
        if self.average is not None:
            self.average.take_over()
        self.masters.publish()

    def save(self) -> None:
        """Write a checkpoint of the finished steps."""
        facts = {
            "step": self.finished_steps,
            "seconds": self.seconds,
            "skipped_data": self.skipped_data,
            "spikes": self.spikes.count,
        }
        self._states.save(facts, kept=self.config.checkpoints_kept)
        self.records.reports.flush()
