"""The command: two runs for each seed, a table of rewards and one of ratios."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.outcome import Outcome

THREADS = 1
SIDES = ("hyla", "transformers")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--folder", type=Path, help="data, models and runs; default: a temporary folder")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="of the recipe, as in `hyla rl`")


def run(options: argparse.Namespace) -> Outcome:
    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        for seed in options.seeds:
            for side in options.sides:
                results[f"{side} {seed}"] = found = one_run(folder, side, seed, options)
                print(shown(side, seed, found), flush=True)
    print(f"\n{table(results)}\n")
    ours = [found["ratios"]["exact"] for name, found in results.items() if name.startswith("hyla")]
    return Outcome(results, passed=all(share == 1.0 for share in ours) if ours else None)


def one_run(folder: Path, side: str, seed: int, options: argparse.Namespace) -> dict:
    """What the run of one side and seed wrote down, once it has come to its last step."""
    from bench.rl import example
    from bench.rl.peer import open_peer_run
    from hyla.rl.run import Listeners, open_rl_run

    short = [] if options.steps == 120 else [f"train.steps={options.steps}"]
    example.warm_start(folder, seed, short)
    request = example.request(folder, seed, [*short, *options.settings])
    out = folder / (f"rl-{seed}" if side == "hyla" else f"{side}-{seed}")
    opened = open_rl_run(out, request) if side == "hyla" else open_peer_run(out, request)
    opened.trained(Listeners())
    return summary(out)


def summary(out: Path) -> dict:
    """Of a run's folder: held-out rewards by step, the ratios of the first update and of all, seconds."""
    rounds, updates = lines_of(out, "rounds"), [line for line in lines_of(out, "updates") if line["tokens"]]
    parts = {name: sum(line[f"{name}_seconds"] for line in rounds) for name in ("rollout", "reward", "handover")}
    parts["update"] = sum(line["seconds"] for line in updates)
    return {
        "heldout": {line["step"]: line["reward"] for line in lines_of(out, "heldout-rewards")},
        "first": ratios(updates[:1]),
        "ratios": ratios(updates),
        "tokens": sum(line["tokens"] for line in updates),
        "seconds": parts,
        "drawn_tokens": sum(line["answers"] * line["tokens"] for line in rounds),
    }


def lines_of(out: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def ratios(updates: Sequence[dict]) -> dict[str, float]:
    """Of exp(new - rollout) over the tokens of updates."""
    tokens = sum(line["tokens"] for line in updates)
    return {
        "exact": sum(line["exact_ratios"] * line["tokens"] for line in updates) / tokens,
        "mean": sum(line["ratio_mean"] * line["tokens"] for line in updates) / tokens,
        "least": min(line["ratio_min"] for line in updates),
        "largest": max(line["ratio_max"] for line in updates),
        "kl": sum((line.get("rollout_kl") or 0.0) * line["tokens"] for line in updates) / tokens,
        "clipped": sum(line["clipped"] * line["tokens"] for line in updates) / tokens,
    }


def shown(side: str, seed: int, found: dict) -> str:
    rewards = ", ".join(f"{reward:.3f}" for reward in found["heldout"].values())
    seconds = ", ".join(f"{name} {part:.1f} s" for name, part in found["seconds"].items())
    return f"seed {seed}, {side}: held-out {rewards}; {found['ratios']['exact']:.2%} of the ratios are 1; {seconds}"


def table(results: dict[str, dict]) -> str:
    """Markdown."""
    lines = [
        "| rollouts, seed | held-out reward, before to after | ratios of 1 | least, largest | mean - 1 | KL (k3) |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        of_all, rewards = found["ratios"], ", ".join(f"{one:.3f}" for one in found["heldout"].values())
        cells = [name, rewards, f"{of_all['exact']:.2%}", f"{of_all['least']:.9g}, {of_all['largest']:.9g}"]
        cells += [f"{of_all['mean'] - 1:.1e}", f"{of_all['kl']:.1e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
