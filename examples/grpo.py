"""Reinforcement learning on a task that can be verified: python examples/grpo.py FOLDER [--seed N] [--steps N]

A small hybrid sees some sums and learns how an answer looks (a warm start, `hyla train`); then it learns to add from
rewards for its own answers (`hyla rl`, docs/rl.md). Some minutes on two cores. FOLDER gets the data, both runs and the
final model; given again, the command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

LARGEST = 99
REWARD = '''
def exact(answer: str, row: dict) -> float:
    """1 for the sum, and nothing else."""
    return float(answer.strip() == row["sum"])
'''
WARM_UP = """
[model.hybrid]
pattern = "KKM"
vocab_size = 257
hidden_dim = 96
num_heads = 4
head_dim = 24
rope_dim = 8
kv_lora_dim = 32
dense_dim = 192
num_experts = 2
num_experts_per_token = 1
expert_dim = 96
shared_dim = 96

[data]
texts = "shown"

[train]
steps = {warm_steps}
seed = {seed}
batch_tokens = 1024
max_document_tokens = 64
"""
RECIPE = """
[model]
start_from = "warm-{seed}/model"

[rl]
tasks = "tasks.jsonl"

[rl.reward]
function = "reward.py:exact"

[rl.rollout]
tasks_per_round = 32
group_size = 8
max_tokens = 6
engine = { max_num_sequences = 64 }

[rl.heldout]
tasks = "heldout.jsonl"
every = 25

[train]
steps = {steps}
seed = {seed}
optimizer = "adamw"
learning_rate = 3e-4
warmup_fraction = 0.05
decay_fraction = 0.5
weight_decay = 0.0
"""


def write_data(folder: Path, num_shown: int, num_tasks: int, num_heldout: int) -> None:
    """Sums that the warm start shows, and others that are tasks; the same ones every time."""
    sums = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    random.Random(0).shuffle(sums)
    shown, rest = sums[:num_shown], sums[num_shown:]
    (folder / "shown").mkdir(parents=True, exist_ok=True)
    for number, (a, b) in enumerate(shown):
        (folder / "shown" / f"{number:05d}.txt").write_text(f"{a}+{b}={a + b}")
    for name, part in (("tasks", rest[:num_tasks]), ("heldout", rest[num_tasks : num_tasks + num_heldout])):
        lines = (json.dumps({"prompt": f"{a}+{b}=", "sum": str(a + b)}) for a, b in part)
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "reward.py").write_text(REWARD)


def hyla(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "hyla.cli", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-steps", type=int, default=120)
    parser.add_argument("--steps", type=int, default=200, help="of reinforcement learning")
    parser.add_argument("--shown", type=int, default=2000, help="sums of the warm start")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--heldout", type=int, default=200)
    args = parser.parse_args()
    folder, seed = args.folder, args.seed
    write_data(folder, args.shown, args.tasks, args.heldout)
    for name, recipe in (("warm", WARM_UP), ("rl", RECIPE)):
        filled = recipe.format(seed=seed, warm_steps=args.warm_steps, steps=args.steps)
        (folder / f"{name}-{seed}.toml").write_text(filled)
    if not (folder / f"warm-{seed}" / "model").exists():
        hyla("train", folder / f"warm-{seed}.toml", "--out", folder / f"warm-{seed}")
    hyla("rl", folder / f"rl-{seed}.toml", "--out", folder / f"rl-{seed}")
    scores = [json.loads(line) for line in (folder / f"rl-{seed}" / "heldout-rewards.jsonl").read_text().splitlines()]
    first, last = scores[0], scores[-1]
    print(f"held-out reward: {first['reward']:.3f} before, {last['reward']:.3f} after {last['step']} steps")


if __name__ == "__main__":
    main()
