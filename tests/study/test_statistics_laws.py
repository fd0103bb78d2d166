"""Laws of one arm: what is fitted, what is refused, and that intervals hold the truth as often as they say."""

from math import exp, inf, log

import numpy as np
import pytest

from hyla.errors import ConfigError
from hyla.study.statistics import NotFitted, Point, fit_law, fit_laws
from hyla.study.statistics.simulated import Noise, Truth, simulate

BUDGETS = tuple(float(x) for x in np.geomspace(1e12, 1e14, 5))
REFERENCE = exp(np.mean([log(x) for x in BUDGETS]))
PLAIN, OFFSET = Truth(2.5, -0.08), Truth(1.2, -0.2, 1.3)
STUDIES = 200


def exact(truth, budgets=BUDGETS, seeds=3):
    return simulate({"arm": truth}, budgets, seeds, Noise(0.0), np.random.default_rng(0))


@pytest.mark.parametrize(("truth", "kind"), [(PLAIN, "plain"), (OFFSET, "offset"), (Truth(1.7, -0.45, 0.6), "offset")])
def test_points_on_a_law_give_that_law(truth, kind):
    law = fit_law(exact(truth), kind)
    assert law.reference == pytest.approx(REFERENCE) and law.budgets == pytest.approx(BUDGETS)
    for found, wanted in ((law.a, truth.a), (law.b, truth.b), (law.e, truth.e)):
        assert found.estimate == pytest.approx(wanted, abs=2e-5)
        assert found.low - 1e-4 <= wanted <= found.high + 1e-4 and found.high - found.low < 1e-3
    for flops in (BUDGETS[0], 3e13, 1e15):
        assert law.loss(flops) == pytest.approx(truth.loss(flops / REFERENCE), rel=1e-4)
        assert law.predict(flops).estimate == pytest.approx(law.loss(flops))
    assert law.is_offset_seen == (kind == "offset")


def test_a_plain_laws_intervals_are_those_of_a_regression_line():
    """Five budgets, one seed; slope, its error and the mean response by the textbook's formulas."""
    y = np.array([1.10, 1.02, 0.97, 0.90, 0.86])
    x = np.log(BUDGETS) - log(REFERENCE)
    law = fit_law([Point("arm", c, 0, exp(v)) for c, v in zip(BUDGETS, y)])
    slope = (x @ y) / (x @ x)
    error = np.sqrt(((y - y.mean() - slope * x) ** 2).sum() / 3)
    assert law.b.estimate == pytest.approx(slope)
    assert law.b.high - slope == pytest.approx(3.182446 * error / np.sqrt(x @ x), rel=1e-6)
    top = law.predict(BUDGETS[-1])
    reach = 3.182446 * error * np.sqrt(1 / 5 + x[-1] ** 2 / (x @ x))
    assert log(top.high) - log(top.estimate) == pytest.approx(reach, rel=1e-6)


def test_the_flops_that_runs_took_count_rather_than_their_budgets():
    points = [Point("arm", c, 0, PLAIN.loss(1.02 * c / REFERENCE), flops=1.02 * c) for c in BUDGETS]
    assert fit_law(points).loss(1e13) == pytest.approx(PLAIN.loss(1e13 / REFERENCE))


def test_what_cannot_be_fitted_says_why():
    two, three = exact(PLAIN, BUDGETS[:2]), exact(OFFSET, BUDGETS[:3])
    assert isinstance(found := fit_law(two), NotFitted) and found.why == "2 budgets; this law needs 3"
    assert isinstance(found := fit_law(three, "offset"), NotFitted) and found.why == "3 budgets; this law needs 4"
    rising = [Point("arm", c, 0, 2 + 0.1 * i) for i, c in enumerate(BUDGETS)]
    for kind in ("plain", "offset"):
        assert "does not fall" in fit_law(rising, kind).why
    step = [Point("arm", c, 0, 3.0 if i == 0 else 2.0) for i, c in enumerate(BUDGETS)]
    assert "first budgets only" in fit_law(step, "offset").why


def test_wrong_points_are_errors_that_name_them():
    with pytest.raises(ConfigError, match=r"of 2 \(one, other\)"):
        fit_law([Point("one", 1e12, 0, 2.0), Point("other", 1e12, 0, 2.0)])
    with pytest.raises(ConfigError, match=r"loss -1.0 at 1e\+12"):
        fit_laws([Point("arm", c, 0, -1.0) for c in BUDGETS])
    with pytest.raises(ConfigError, match="comes twice"):
        fit_laws([Point("arm", 1e12, 0, 2.0), Point("arm", 1e12, 0, 2.1)])
    with pytest.raises(ConfigError, match="is nan"):
        fit_laws([Point("arm", 1e12, 0, float("nan"))])
    with pytest.raises(ConfigError, match="budget of arm 'arm', seed 0, is 0"):
        fit_laws([Point("arm", 0.0, 0, 2.0)])
    with pytest.raises(ConfigError, match="'cubic'"):
        fit_laws(exact(PLAIN), "cubic")


def test_points_that_do_not_bound_an_exponent_have_an_interval_without_an_end():
    noisy = [Point("arm", c, 0, loss) for c, loss in zip(BUDGETS, (3.0, 2.3, 2.25, 2.0, 2.05))]
    law = fit_law(noisy, "offset")
    assert law.b.low == -inf and not law.b.is_bounded and law.b.high < 0
    assert law.e.low == 0 and not law.is_offset_seen and law.e.high > law.e.estimate


def covered(kind, truth, noise, studies=STUDIES):
    """In how many of the studies each interval holds the truth."""
    generator = np.random.default_rng(21)
    hits = dict.fromkeys(("a", "b", "e", "in range", "beyond"), 0)
    for _ in range(studies):
        law = fit_law(simulate({"arm": truth}, BUDGETS, 3, noise, generator), kind)
        hits["a"] += truth.a in law.a
        hits["b"] += truth.b in law.b
        hits["e"] += truth.e in law.e
        hits["in range"] += truth.loss(BUDGETS[-1] / REFERENCE) in law.predict(BUDGETS[-1])
        hits["beyond"] += truth.loss(10 * BUDGETS[-1] / REFERENCE) in law.predict(10 * BUDGETS[-1])
    return hits


NOISES = {"runs alone": Noise(0.004), "budgets too": Noise(0.003, budget=0.003, fit=0.003)}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_intervals_of_200_plain_laws_hold_the_truth(noise):
    hits = covered("plain", PLAIN, noise)
    assert hits.pop("e") == STUDIES
    assert all(180 <= count <= 198 for count in hits.values()), hits


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_intervals_of_200_laws_with_an_irreducible_part_hold_the_truth(noise):
    hits = covered("offset", OFFSET, noise)
    assert all(180 <= count <= 198 for count in hits.values()), hits


def test_the_usual_bootstrap_over_runs_does_not_hold_the_truth():
    """The control: were a law's points the runs, resampled, as is common, intervals would be far too narrow."""
    generator = np.random.default_rng(21)
    hits = 0
    for _ in range(STUDIES):
        points = simulate({"arm": PLAIN}, BUDGETS, 3, NOISES["budgets too"], generator)
        x, y = np.array([(log(p.budget), log(p.loss)) for p in points]).T
        drawn = generator.integers(len(x), size=(400, len(x)))
        xs, ys = x[drawn], y[drawn]
        xs = xs - xs.mean(1, keepdims=True)
        slopes = (xs * ys).sum(1) / (xs**2).sum(1)
        hits += np.quantile(slopes, 0.025) <= PLAIN.b <= np.quantile(slopes, 0.975)
    assert hits < 0.85 * STUDIES
