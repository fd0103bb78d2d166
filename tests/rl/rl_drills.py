"""Kill drills of `hyla rl`: real processes, each killed with signal 9, one after the other on one run, until ten are
dead. What the last one leaves must be what an undisturbed process leaves."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from drills import Moment, finished, killed, leftovers, num_lines
from tiny_rl import write_start

STEPS, UPDATES_PER_ROUND, GROUPS, MEMBERS = 40, 2, 4, 3
RECIPE = f"""
[model]
start_from = "start"

[rl]
tasks = "tasks.jsonl"
reward = {{ function = "reward.py:count" }}
heldout = {{ tasks = "heldout.jsonl", every = 5 }}

[rl.rollout]
tasks_per_round = {GROUPS}
group_size = {MEMBERS}
max_tokens = 24
temperature = 0.7

[rl.rollout.engine]
speculation = "lookup"
fixed_drafts = true
max_draft_tokens = 4
memory = 8_388_608
max_num_sequences = 5
prefill_chunk = 50

[rl.policy]
updates_per_round = {UPDATES_PER_ROUND}

[train]
steps = {STEPS}
seed = 3
optimizer = "adamw"
loss_rows = 50
micro_batch_tokens = 400
checkpoint_every = 2
"""
RECIPES = {
    "whole": RECIPE + "learning_rate = 3e-3\n",
    "LoRA": RECIPE + "learning_rate = 3e-3\ndtype = 'bf16'\n[lora]\nrank = 4\n",
}
OF_THE_BATCH = ("drafted_tokens", "accepted_tokens")
"""What a round's line says of how its answers were computed. A draft is tried where a step has a page and a slot left
over, and after a kill the open answers stand in other steps."""
MOST_DELAY_MS = 400
"""After the first step of a process."""


@dataclass(frozen=True)
class RoundMoment(Moment):
    """Besides those of `Moment`, "rollout": some answers of a round of that number, or a later one, are there, and
    others are not."""

    def has_come(self, run: Path, started: float, begun_ns: int) -> bool:
        if self.kind != "rollout":
            return super().has_come(run, started, begun_ns)
        file = max((run / "rollouts").glob("round-*.jsonl"), default=None)
        if file is None or int(file.stem[-6:]) < self.number or file.stat().st_mtime_ns <= begun_ns:
            return False
        return 0 < file.read_bytes().count(b"\n") < GROUPS * MEMBERS


def ten_kills(seed: int) -> list[Moment]:
    """Places all along a run, drawn by chance: in the middle of a round, in the middle of a save, and at any time."""
    chance = random.Random(seed)
    kinds = ["rollout"] * 3 + ["save"] * 3 + ["any"] * 4
    chance.shuffle(kinds)
    places = sorted(chance.sample(range(2, STEPS - 6), len(kinds)))
    number = {
        "rollout": lambda step: step // UPDATES_PER_ROUND,
        "save": lambda step: step,
        "any": lambda step: chance.randint(0, MOST_DELAY_MS),
    }
    return [RoundMoment(kind, number[kind](step)) for kind, step in zip(kinds, places)]


def prepare(folder: Path) -> None:
    """What the recipes read, and the recipes."""
    write_start(folder)
    for name, text in RECIPES.items():
        recipe_of(folder, name).write_text(text)


def recipe_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.toml"


def undisturbed(folder: Path, name: str, run: Path) -> Path:
    return finished(recipe_of(folder, name), run, "rl")


def disturbed(folder: Path, name: str, moments: list[Moment], run: Path) -> list[str]:
    """Kill a process at each moment; what each kill hit. The run is finished then."""
    recipe, hit = recipe_of(folder, name), []
    for moment in moments:
        if killed(recipe, run, moment, "rl"):
            answers = [file.read_bytes().count(b"\n") for file in sorted((run / "rollouts").glob("*"))[-1:]]
            place = f"{num_lines(run)} steps, {answers or 'no'} lines of the newest round"
            hit.append(f"{moment.kind} {moment.number}: {place}, left {leftovers(run) or 'nothing'}")
    finished(recipe, run, "rl")
    return hit
