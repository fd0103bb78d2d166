"""How often a study's intervals hold the truth, and its verdicts are right, on simulated studies.

    python -m bench study_statistics [--studies 2000]

Five budgets over two decades, three seeds, noise as docs/study-statistics.md describes it. For every case the share of
studies in which the interval holds the truth (laws, efficiencies) or in which nothing is called decided (equal arms);
usual ways beside ours: a bootstrap over runs, tests without Holm. Passed: each of ours lies
within 90 and 99%. The cases whose name ends with "unprotected" show what the method does not protect from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from math import exp, log

import numpy as np

from bench.outcome import Outcome
from hyla.study.statistics import Efficiency, Law, LawKind, Point, compare, compare_all, efficiency, fit_law, power
from hyla.study.statistics.simulated import Noise, Truth, simulate

BUDGETS = tuple(float(x) for x in np.geomspace(1e12, 1e14, 5))
REFERENCE = exp(sum(log(x) for x in BUDGETS) / len(BUDGETS))
TOP = BUDGETS[-1] / REFERENCE
SEEDS = 3
PLAIN, OFFSET = Truth(2.5, -0.08), Truth(1.2, -0.2, 1.3)
RUNS, ALL = Noise(0.003, seed=0.004), Noise(0.003, seed=0.004, budget=0.003, fit=0.003)
LAWS: dict[str, tuple[LawKind, Truth, Noise]] = {
    "plain, runs": ("plain", PLAIN, RUNS),
    "plain, budgets too": ("plain", PLAIN, ALL),
    "offset, runs": ("offset", OFFSET, RUNS),
    "offset, budgets too": ("offset", OFFSET, ALL),
}
PAIRS: dict[str, tuple[LawKind | None, Truth, Truth, Noise]] = {
    "plain, runs": ("plain", PLAIN, Truth(2.53, -0.081), RUNS),
    "plain, budgets too": ("plain", PLAIN, Truth(2.53, -0.081), ALL),
    "offset, runs": ("offset", OFFSET, Truth(1.23, -0.2, 1.3), RUNS),
    "offset, budgets too": ("offset", OFFSET, Truth(1.23, -0.2, 1.3), ALL),
    "offset, kind chosen": (None, OFFSET, Truth(1.23, -0.2, 1.3), RUNS),
    "offset, plain law fitted, unprotected": ("plain", OFFSET, Truth(1.23, -0.2, 1.3), RUNS),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies of each case")


def laws(studies: int) -> dict[str, dict[str, float]]:
    """Shares of intervals that hold the truth, and of the usual bootstrap of b."""
    found = {}
    for name, (kind, truth, noise) in LAWS.items():
        generator, hits = np.random.default_rng(1), dict.fromkeys(("a", "b", "e", "in range", "tenfold", "usual b"), 0)
        for _ in range(studies):
            points = simulate({"arm": truth}, BUDGETS, SEEDS, noise, generator)
            law = fit_law(points, kind)
            assert isinstance(law, Law)
            hits["a"] += truth.a in law.a
            hits["b"] += truth.b in law.b
            hits["e"] += truth.e in law.e
            hits["in range"] += truth.loss(TOP) in law.predict(BUDGETS[-1])
            hits["tenfold"] += truth.loss(10 * TOP) in law.predict(10 * BUDGETS[-1])
            hits["usual b"] += kind == "plain" and _bootstrap_holds(points, truth.b, generator)
        found[name] = {key: count / studies for key, count in hits.items()}
        print(f"law {name}: {found[name]}", flush=True)
    return found


def _bootstrap_holds(points: list[Point], slope: float, generator: np.random.Generator) -> bool:
    """Whether the middle 95% of slopes over resampled runs hold the true one."""
    x, y = np.array([(log(p.budget), log(p.loss)) for p in points]).T
    drawn = generator.integers(len(x), size=(400, len(x)))
    x, y = x[drawn] - x[drawn].mean(1, keepdims=True), y[drawn]
    low, high = np.quantile((x * y).sum(1) / (x * x).sum(1), (0.025, 0.975))
    return bool(low <= slope <= high)


def efficiencies(studies: int) -> dict[str, dict[str, float]]:
    """Shares of ratios at the largest budget whose interval holds the truth; the median interval."""
    found = {}
    for name, (kind, one, other, noise) in PAIRS.items():
        generator = np.random.default_rng(2)
        truth = other.ratio_for(one.loss(TOP)) / TOP
        ratios = []
        for _ in range(studies):
            points = simulate({"one": one, "other": other}, BUDGETS, SEEDS, noise, generator)
            ours = efficiency(points, "one", "other", BUDGETS[-1], kind)
            assert isinstance(ours, Efficiency)
            ratios.append(ours.ratio)
        low, high = (float(np.median([getattr(r, end) for r in ratios])) for end in ("low", "high"))
        found[name] = {"holds": sum(truth in r for r in ratios) / studies, "truth": truth, "low": low, "high": high}
        print(f"efficiency {name}: {found[name]}", flush=True)
    return found


def normal(generator: np.random.Generator) -> np.ndarray:
    """Noise of a run [budgets, seeds], standard deviation 1."""
    return generator.normal(size=(len(BUDGETS), SEEDS))


NOISES: Mapping[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": normal,
    "small budgets noisier, 4 times": lambda g: normal(g) * np.geomspace(2, 0.5, 5)[:, None],
    "heavy tails": lambda g: g.standard_t(3, size=(len(BUDGETS), SEEDS)),
    "16 times, unprotected": lambda g: normal(g) * np.geomspace(4, 0.25, 5)[:, None],
    "seeds drift, unprotected": lambda g: normal(g) + g.normal(size=SEEDS),
}


def equal_arms(studies: int) -> dict[str, dict[str, float]]:
    """Shares of studies of four equal arms in which nothing is decided; without Holm; one pair by seeds."""
    found = {}
    for name, noise in NOISES.items():
        generator, hits = np.random.default_rng(3), dict.fromkeys(("inside", "without Holm", "A and B by seeds"), 0)
        for _ in range(studies):
            points = [
                Point(arm, budget, seed, 3 + 0.005 * error)
                for arm in "ABCD"
                for budget, row in zip(BUDGETS, noise(generator))
                for seed, error in enumerate(row)
            ]
            compared = compare_all(points)
            hits["inside"] += all(c.better is None for c in compared)
            hits["without Holm"] += all(c.p is not None and c.p >= 0.05 for c in compared)
            hits["A and B by seeds"] += compared[0].by_seeds is not None and 0 in compared[0].by_seeds
        found[name] = {key: count / studies for key, count in hits.items()}
        print(f"equal arms {name}: {found[name]}", flush=True)
    return found


ABLATIONS: Mapping[str, Callable[[int], float]] = {
    "alike in all arms": lambda arm: 1.0,
    "one arm twice as noisy": lambda arm: 2.0 if arm == 1 else 1.0,
    "one arm four times, unprotected": lambda arm: 4.0 if arm == 1 else 1.0,
}
"""Noise of each of seven arms at one budget."""


def ablations(studies: int) -> dict[str, dict[str, float]]:
    """Seven arms, one budget, three seeds, noise from all arms: shares of studies of equal arms in which nothing is
    decided, and in which an arm that is three noises better is found; beside, by the noise of pairs."""
    found = {}
    for name, size in ABLATIONS.items():
        generator, hits = np.random.default_rng(5), dict.fromkeys(("inside", "found", "found by pairs"), 0)
        for _ in range(studies):
            points = [
                Point(str(arm), BUDGETS[0], seed, 3 + 0.01 * size(arm) * float(generator.normal()))
                for arm in range(7)
                for seed in range(SEEDS)
            ]
            hits["inside"] += all(c.better is None for c in compare_all(points, reference="0", noise="arms"))
            better = [Point(p.arm, p.budget, p.seed, p.loss - 0.03 * (p.arm == "6")) for p in points]
            hits["found"] += compare_all(better, reference="0", noise="arms")[-1].better == "6"
            hits["found by pairs"] += compare_all(better, reference="0")[-1].better == "6"
        found[name] = {key: count / studies for key, count in hits.items()}
        print(f"noise of all arms, {name}: {found[name]}", flush=True)
    return found


def planted(studies: int) -> dict[str, dict[str, float]]:
    """A difference in noises: how often it is found, and how often it should be."""
    found = {}
    for seeds, budgets, size in ((3, 1, 2.0), (3, 3, 1.0), (3, 5, 0.8)):
        generator, hits = np.random.default_rng(4), 0
        for _ in range(studies):
            d = size + generator.normal(size=(budgets, seeds))
            rows = [(BUDGETS[i], seed, value) for i, row in enumerate(d) for seed, value in enumerate(row)]
            points = [Point(arm, c, s, 9 + (v if arm == "A" else 0)) for c, s, v in rows for arm in "AB"]
            hits += compare(points, "A", "B").better == "B"
        name = f"{size} noises, {seeds} seeds, {budgets} budgets"
        found[name] = {"found": hits / studies, "computed": power(size, 1.0, seeds, budgets)}
        print(f"planted {name}: {found[name]}", flush=True)
    return found


def run(options: argparse.Namespace) -> Outcome:
    results = {
        "laws": laws(options.studies),
        "efficiencies": efficiencies(options.studies),
        "equal arms": equal_arms(options.studies),
        "noise of all arms": ablations(options.studies),
        "planted": planted(options.studies),
    }
    shares = [share for row in results["laws"].values() for key, share in row.items() if key not in ("e", "usual b")]
    shares += [results["laws"][name]["e"] for name in LAWS if name.startswith("offset")]
    shares += [row["holds"] for name, row in results["efficiencies"].items() if "unprotected" not in name]
    for equal in ("equal arms", "noise of all arms"):
        shares += [row["inside"] for name, row in results[equal].items() if "unprotected" not in name]
    return Outcome(results, passed=all(0.90 <= share <= 0.99 for share in shares))
