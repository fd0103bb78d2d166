"""`hyla rl`: a trained model learns from rewards for its own answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hyla.rl.metrics import HeldoutReward, RoundMetrics, UpdateMetrics
    from hyla.rl.run import RLRun


def rl(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="Model, tasks, rewards, rollouts and training.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; the model ends up in its subfolder model/.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe, e.g. train.steps=100; wins over it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Only go on with a run that --out holds already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the resolved recipe; then stop.")] = False,
) -> None:
    """Reinforcement learning (docs/rl.md). Ctrl-C keeps what there is; called again, it continues."""
    from hyla.engine.waiting_threads import load_torch

    load_torch()  # before anything else does
    from hyla.errors import ConfigError
    from hyla.rl.config import RLRequest
    from hyla.train.recipe_file import read_recipe
    from hyla.train.run import RUN_FILE

    request = read_recipe(recipe, settings or (), RLRequest)
    if dry_run:
        from hyla.cli.console import console

        console.print_json(request.model_dump_json())
        return
    if out is None:
        raise ConfigError("--out is missing: the folder that the run is kept in")
    if resume and not (out / RUN_FILE).is_file():
        raise ConfigError(f"--resume: {out} holds no run; leave the flag out to begin one")
    _train(out, request)


def _train(out: Path, request) -> None:
    from hyla.cli.console import console
    from hyla.cli.interrupts import STATUS, stopped_by_ctrl_c
    from hyla.ops.host_memory import keep_freed_memory
    from hyla.rl.run import Listeners, open_rl_run
    from hyla.train.files import held

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
    if steps < request.train.steps:
        console.print(
            f"stopped after step {steps} of {request.train.steps}: saved in {run.model_folder}; "
            "the same command goes on",
            soft_wrap=True,
        )
        raise typer.Exit(STATUS)
    console.print(f"saved {run.model_folder}; try: hyla generate {run.model_folder} ...", soft_wrap=True)


class Shown:
    """A line for each round, once its updates were taken."""

    def __init__(self, run: RLRun):
        self.steps, self.per_round = run.request.train.steps, run.request.rl.policy.updates_per_round
        self._round: RoundMetrics | None = None
        self._updates: list[UpdateMetrics] = []

    def resumed(self, step: int) -> None:
        from hyla.cli.console import console

        if step:
            console.print(f"continuing after step {step} of {self.steps}")

    def round(self, line: RoundMetrics) -> None:
        self._round, self._updates = line, []

    def update(self, line: UpdateMetrics) -> None:
        from hyla.cli.console import console

        self._updates.append(line)
        if self._round is not None and (line.step % self.per_round == 0 or line.step == self.steps):
            console.print(told(self._round, self._updates, self.steps), soft_wrap=True, markup=False)

    def heldout(self, line: HeldoutReward) -> None:
        from hyla.cli.console import console

        console.print(
            f"after step {line.step}: held-out reward {line.reward:.3f} (95%: {line.low:.3f} to {line.high:.3f}; "
            f"{line.tasks} tasks)",
            soft_wrap=True,
        )


def told(line: RoundMetrics, updates: list[UpdateMetrics], steps: int) -> str:
    """A round in one line."""
    reward = "no reward" if line.reward is None else f"reward {line.reward:.3f}"
    parts = [f"step {updates[-1].step} of {steps}: {reward}", f"{line.tokens:.1f} tokens an answer"]
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
