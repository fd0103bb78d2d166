"""The training loop: forward, backward, clip, update, write a line, sometimes a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hyla.data.packing import PackedRows, Packer, TokenStore
from hyla.errors import ConfigError
from hyla.models.trunk import Model, Targets
from hyla.ops.devices import says_what_to_lower, synchronize
from hyla.ops.exact.primitives import wide
from hyla.ranges import named_range
from hyla.train.config import TrainConfig
from hyla.train.metrics import MetricsFile, StepMetrics
from hyla.train.optimizer import Optimizer
from hyla.train.run_state import (
    DamagedState,
    changed_environment,
    environment,
    finished_states,
    load_state,
    save_state,
)

SMALLER_STEPS = "lower batch_tokens, loss_rows or the model's sizes"


def batch_loss(model: Model, rows: PackedRows, chunk_rows: int) -> torch.Tensor:
    """Mean cross-entropy in nats of the packed rows that are to be learnt; differentiable, 0 where there is none."""
    if rows.is_learnt_T is not None and not bool(rows.is_learnt_T.any()):
        return wide(model(rows.tokens_T, rows.batch)).sum() * 0.0
    return model(rows.tokens_T, rows.batch, targets=Targets(rows.targets_T, chunk_rows, rows.is_learnt_T))


class Trainer:
    """One run: a model with start values, a token store, a config, and a folder to resume from and write to.

    Exactness: with equal config, store, start values and environment, every step's loss has the same bits, in one
    process or across any number of killed ones.
    """

    def __init__(self, model: Model, store: TokenStore, config: TrainConfig, folder: Path):
        self.model, self.config, self.folder = model, config, folder
        self.packer = Packer(
            store,
            batch_tokens=config.batch_tokens,
            max_document_tokens=config.max_document_tokens,
            seed=config.seed,
        )
        self.optimizer = Optimizer(model, config)
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self.finished_steps, self.seconds = 0, 0.0

    def resume(self, say: Callable[[str], None] = lambda line: None) -> int:
        """Continue from the newest whole checkpoint, if there is one; returns the number of finished steps.

        say: told when a newer one is damaged, and when the checkpoint was written on another device, or by another
        arithmetic. Raises CheckpointError when all are damaged, or of another model.
        """
        state = self._newest_state(say)
        if state is not None:
            self.finished_steps, self.seconds = state["step"], state["seconds"]
            changes = changed_environment(state["environment"], environment(self.model.device))
            if changes:
                say(f"continued on another machine or device ({changes}): from here on the run's bits differ")
        self.metrics.forget_after(self.finished_steps)
        return self.finished_steps

    def _newest_state(self, say: Callable[[str], None]) -> dict | None:
        """The state.json of the newest checkpoint that is whole, once model and optimizer are filled from it."""
        states = finished_states(self.folder / "checkpoints")
        for number, path in enumerate(reversed(states), start=1):
            try:
                return load_state(path, self.model, self.optimizer)
            except DamagedState as error:
                if number == len(states):
                    raise DamagedState(
                        f"{error}, and there is no older one; delete {path.parent} and start anew"
                    ) from None
                say(f"{error}; going on from the one before")
        return None

    def update(self, step: int) -> tuple[float, float, float]:
        """Take one optimizer step; returns (loss, learning rate, gradient norm).

        Raises CapacityError when the device has too little memory for it.
        """
        doing = f"a training step of {self.config.batch_tokens} tokens"
        with says_what_to_lower(self.model.device, doing, SMALLER_STEPS):
            return self._update(step)

    def _update(self, step: int) -> tuple[float, float, float]:
        with named_range("forward"):
            loss = batch_loss(self.model, self.packer.step(step).to(self.model.device), self.config.loss_rows)
        with named_range("backward"):
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        # One copy to the host a step.
        loss_value, norm_value = torch.stack([loss.detach().double(), norm.double()]).tolist()
        if not math.isfinite(loss_value) or not math.isfinite(norm_value):
            raise ConfigError(
                f"step {step + 1}: loss {loss_value}, gradient norm {norm_value}; "
                f"lower learning_rate = {self.config.learning_rate} or clip_norm = {self.config.clip_norm}"
            )
        with named_range("optimizer"):
            rate = self.optimizer.step(step)
        return loss_value, rate, norm_value

    def run(
        self,
        on_step: Callable[[StepMetrics], None] = lambda metrics: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train up to `config.steps`, or to the end of the step in which `is_stopped` comes true.

        on_step is called after each step. Ends with a checkpoint, so that a stopped run can go on.
        """
        while self.finished_steps < self.config.steps and not is_stopped():
            started = time.perf_counter()
            loss, rate, norm = self.update(self.finished_steps)
            synchronize(self.model.device)
            elapsed = time.perf_counter() - started
            self.finished_steps += 1
            self.seconds += elapsed
            metrics = StepMetrics(
                step=self.finished_steps,
                loss=loss,
                learning_rate=rate,
                grad_norm=norm,
                tokens=self.finished_steps * self.config.batch_tokens,
                tokens_per_second=self.config.batch_tokens / elapsed,
                seconds=self.seconds,
            )
            self.metrics.append(metrics)
            on_step(metrics)
            is_last = self.finished_steps == self.config.steps or is_stopped()
            if self.finished_steps % self.config.checkpoint_every == 0 or is_last:
                self.save()

    def save(self) -> None:
        """Write a checkpoint of the finished steps."""
        save_state(
            self.folder / "checkpoints",
            self.model,
            self.optimizer,
            step=self.finished_steps,
            seconds=self.seconds,
            kept=self.config.checkpoints_kept,
        )
