"""Ledgers that nobody computed: result files with the figures that a test wants."""

import json
import random
from dataclasses import dataclass

from hyla.study.report import About
from hyla.study.results import read_results

SIZE = {"hidden_dim": 48, "num_layers": 4, "num_heads": 3, "head_dim": 16, "mlp_dim": 128}
LAYERS = {
    "full": ["softmax"] * 4,
    "3:1": ["kda", "kda", "kda", "softmax"],
    "1:1": ["kda", "softmax"] * 2,
    "0:1": ["kda"] * 4,
}


def language_file(arm="3:1", *, budget=1e12, rate=0.003, seed=0, bits=2.0, **figures):
    """The object of a language run's file."""
    changes = figures.pop("changes", {})
    run = {
        "kind": "language",
        "version": 1,
        "arm": arm,
        "layers": LAYERS.get(arm, LAYERS["3:1"]),
        "changes": changes,
        "size": SIZE,
        "budget": budget,
        "rate": rate,
        "seed": seed,
        "data": "d1ge57",
        "batch_tokens": 4096,
    }
    found = {
        "flops": budget * 1.002,
        "steps": 250,
        "tokens": 1_024_000,
        "parameters": 400_000,
        "validation_bits": bits,
        "test_bits": bits + 0.01,
        "bits_by_position": {"0": bits + 0.8, "64": bits + 0.1, "128": bits},
        "tasks": {"recall": 0.95, "variables": 0.4, "needle": 1.0, "turns": 0.35},
        "curve": [[50, 204_800, 2.4], [250, 1_024_000, 1.4]],
        "seconds": 81.0,
        "evaluation_seconds": 2.0,
        "machine": "a made-up machine",
        "cache_bytes": {"1024": 400_000, "65536": 2_250_000 * run["layers"].count("softmax")},
    }
    return {"run": run, **found, **figures}


def decode_file(arm="3:1", *, ms=2.0, cache=1_000_000, changes=None):
    """The object of a decode run's file."""
    run = {
        "kind": "decode",
        "version": 1,
        "arm": arm,
        "layers": LAYERS.get(arm, LAYERS["3:1"]),
        "changes": changes or {},
        "size": SIZE,
    }
    return {
        "run": run,
        "ms_per_token": {"1024": ms, "16384": ms * 2},
        "cache_bytes": {"1024": cache, "65536": 8 * cache},
    }


def write(folder, name, found, **run):
    """A result file, whatever it holds; run: fields of its key that differ."""
    if run:
        found = {**found, "run": {**found["run"], **run}}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(found if isinstance(found, str) else json.dumps(found))
    return file


@dataclass(frozen=True)
class Searched:
    """Rates that were tried for an arm."""

    arm: str
    budget: float
    bits: dict
    best: float
    is_at_edge: bool = False


BUDGETS = (2e11, 6e11, 2e12, 6e12, 2e13)
SEEDS = (0, 1, 2)


def law(budget):
    return 0.9 + 1.6 * (budget / 2e12) ** -0.12


def ledger(folder, arms, *, budgets=BUDGETS, seeds=SEEDS, noise=0.004, leave=lambda arm, budget, seed: {}):
    """Result files of arms whose loss is one law plus a shift of each, a noise of each seed that all arms share, and
    one of each run. leave: figures of a run that differ; None: there is no such run."""
    for arm, shift in arms.items():
        for budget in budgets:
            for seed in seeds:
                figures = leave(arm, budget, seed)
                if figures is not None:
                    shared = random.Random(f"{budget} {seed}").gauss(0, 0.01)
                    own = random.Random(f"{arm} {budget} {seed}").gauss(0, noise)
                    found = language_file(arm, budget=budget, seed=seed, bits=law(budget) + shift + shared + own)
                    rest = {key: value for key, value in figures.items() if key != "run"}
                    found = {**found, **rest, "run": {**found["run"], **figures.get("run", {})}}
                    write(folder, f"{arm.replace(':', '-')}-{budget:g}-{seed}".replace("+", ""), found)
    return read_results(folder)


def about(arms, **fields):
    """A study of arms of a ledger; the reference is the first one."""
    known = {
        "name": "made-up",
        "question": "Which arm is best?",
        "arms": tuple(arms),
        "reference": next(iter(arms)),
        "budgets": BUDGETS,
        "seeds": SEEDS,
        "tuned": tuple(Searched(arm, 2e12, {1e-3: 2.6, 3e-3: 2.5, 9e-3: 2.55}, 3e-3) for arm in arms),
    }
    return About(**{**known, **fields})
