"""A run of reinforcement learning from the command line, and what it shows while it goes on."""

from __future__ import annotations

from pathlib import Path

from hyla.cli.console import console
from hyla.cli.interrupts import stopped_by_ctrl_c
from hyla.ops.host_memory import keep_freed_memory
from hyla.rl.config import RLRequest
from hyla.rl.metrics import HeldoutReward, RoundMetrics, UpdateMetrics
from hyla.rl.run import Listeners, RLRun, open_rl_run
from hyla.train.files import held


def train_with_lines(out: Path, request: RLRequest) -> tuple[RLRun, int]:
    """Open or prepare the run in `out`, and bring it to its last step, or to the one in which Ctrl-C is pressed; the
    run, whose model is saved, and its number of steps. Nobody else works in `out` meanwhile."""
    keep_freed_memory()
    with held(out):
        run = open_rl_run(out, request)
        shown = Shown(run)
        with stopped_by_ctrl_c(lambda line: console.print(line)) as is_stopped:
            listeners = Listeners(
                say=lambda line: console.print(line, soft_wrap=True, markup=False),
                on_resume=shown.resumed,
                on_round=shown.round,
                on_update=shown.update,
                on_heldout=shown.heldout,
                is_stopped=is_stopped,
            )
            _, steps = run.trained(listeners)
    return run, steps


class Shown:
    """A line for each round, once its updates were taken."""

    def __init__(self, run: RLRun):
        self.steps, self.per_round = run.request.train.steps, run.request.rl.policy.updates_per_round
        self._round: RoundMetrics | None = None
        self._updates: list[UpdateMetrics] = []

    def resumed(self, step: int) -> None:
        if step:
            console.print(f"continuing after step {step} of {self.steps}")

    def round(self, line: RoundMetrics) -> None:
        self._round, self._updates = line, []

    def update(self, line: UpdateMetrics) -> None:
        self._updates.append(line)
        if self._round is not None and (line.step % self.per_round == 0 or line.step == self.steps):
            console.print(told(self._round, self._updates, self.steps), soft_wrap=True, markup=False)

    def heldout(self, line: HeldoutReward) -> None:
        console.print(
            f"after step {line.step}: held-out reward {line.reward:.3f} (95%: {line.low:.3f} to {line.high:.3f}; "
            f"{line.tasks} tasks)",
            soft_wrap=True,
        )


def told(line: RoundMetrics, updates: list[UpdateMetrics], steps: int) -> str:
    """A round in one line."""
    reward = "no reward" if line.reward is None else f"reward {line.reward:.3f}"
    parts = [f"step {updates[-1].step} of {steps}: {reward}", f"{line.tokens:.1f} tokens an answer"]
    if line.turns is not None:
        failed = f" ({line.tool_errors} failed)" if line.tool_errors else ""
        parts.append(f"{line.turns:.1f} turns, {line.tool_calls} tool calls{failed}")
    first = updates[0]
    if first.ratio_min == first.ratio_max == 1.0:
        parts.append("ratio 1")
    else:
        parts.append(f"ratio {first.ratio_min:.6g} to {first.ratio_max:.6g}")
    parts.append(f"entropy {first.entropy:.2f}")
    if first.kl is not None:
        parts.append(f"KL {updates[-1].kl:.4f}")
    if line.left_out:
        parts.append(f"{line.left_out} answers without a reward")
    if line.equal_groups:
        parts.append(f"{line.equal_groups} tasks without a signal")
    training = sum(update.seconds for update in updates)
    shares = {
        "rollout": line.rollout_seconds,
        "rewards": line.reward_seconds,
        "training": training,
        "hand-over": line.handover_seconds,
    }
    whole = sum(shares.values()) or 1.0
    parts.append(f"{whole:.2f} s: " + ", ".join(f"{name} {part / whole:.0%}" for name, part in shares.items()))
    return ", ".join(parts)
