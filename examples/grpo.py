"""Reinforcement learning on a task that can be verified: python examples/grpo.py [FOLDER] [--seed N]

A small hybrid sees some sums and learns what an answer looks like (`hyla train`, grpo/warm-up.toml); then it learns to
add from rewards for its own answers (`hyla rl`, grpo/rl.toml; docs/rl.md). Some minutes on two cores; FOLDER gets data,
runs and models, and the same command goes on where it was. Without FOLDER, a few steps in a temporary one.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = Path(__file__).parent / "grpo"
NUM_SHOWN, NUM_TASKS, NUM_HELDOUT = 2000, 2000, 200
TRIAL = ["train.steps=2", "rl.rollout.tasks_per_round=4"]


def write_data(folder: Path) -> None:
    """Sums that the warm-up shows, others that are tasks, and others that are never trained on."""
    sums = [(a, b) for a in range(100) for b in range(100)]
    random.Random(0).shuffle(sums)
    (folder / "shown").mkdir(parents=True, exist_ok=True)
    for number, (a, b) in enumerate(sums[:NUM_SHOWN]):
        (folder / "shown" / f"{number:04d}.txt").write_text(f"{a}+{b}={a + b}", encoding="utf-8")
    rest = sums[NUM_SHOWN:]
    for name, part in (("tasks", rest[:NUM_TASKS]), ("heldout", rest[NUM_TASKS : NUM_TASKS + NUM_HELDOUT])):
        lines = [json.dumps({"prompt": f"{a}+{b}=", "sum": str(a + b)}) + "\n" for a, b in part]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def hyla(verb: str, recipe: str, out: Path, settings: list[str]) -> None:
    chosen = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "hyla.cli", verb, str(RECIPES / recipe), "--out", str(out), *chosen]
    subprocess.run(command, check=True)


def main(folder: Path, seed: int, is_trial: bool) -> None:
    write_data(folder)
    warm, out = folder / f"warm-up-{seed}", folder / f"rl-{seed}"
    seeded = [f"train.seed={seed}", *(TRIAL[:1] if is_trial else [])]
    if not (warm / "model" / "config.json").exists():
        hyla("train", "warm-up.toml", warm, [*seeded, f"data.texts={folder / 'shown'}"])
    places = [f"model.start_from={warm / 'model'}", f"rl.tasks={folder / 'tasks.jsonl'}"]
    heldout = [f"rl.heldout.tasks={folder / 'heldout.jsonl'}", "rl.heldout.every=20"]
    hyla("rl", "rl.toml", out, [*seeded, *places, *heldout, *(TRIAL if is_trial else [])])

    # Every round and update is a line in the run's folder; so is every score.
    scores = [json.loads(line) for line in (out / "heldout-rewards.jsonl").read_text().splitlines()]
    updates = [json.loads(line) for line in (out / "updates.jsonl").read_text().splitlines()]
    assert all(line["exact_ratios"] == 1.0 for line in updates), "trainer and engine are one arithmetic"
    print(f"held-out reward {scores[0]['reward']:.3f} -> {scores[-1]['reward']:.3f} in {len(updates)} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.folder is not None:
        main(args.folder.absolute(), args.seed, is_trial=False)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary), args.seed, is_trial=True)
