"""Arms compared by paired seeds: the numbers by hand, the noise that cancels, and how often a verdict is wrong."""

from math import inf, sqrt

import numpy as np
import pytest

from hyla.errors import ConfigError
from hyla.study.statistics import Point, all_others, compare, compare_all, power
from hyla.study.statistics.distributions import t_quantile, t_tails
from hyla.study.statistics.simulated import Noise, Truth, simulate

BUDGETS = tuple(float(x) for x in np.geomspace(1e12, 1e14, 5))
SAME = Truth(2.5, -0.08)


def points_of(arm, losses, budgets=BUDGETS):
    return [Point(arm, c, seed, loss) for c, row in zip(budgets, losses) for seed, loss in enumerate(row)]


def study(arms, seed, noise):
    return simulate(arms, BUDGETS, 3, noise, np.random.default_rng(seed))


def test_one_budget_is_students_paired_t_test():
    """Student's own sleep data (1908): t = -4.0621 with 9 degrees of freedom, p = 0.002833, as R's t.test prints it."""
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = compare(points_of("one", [one]) + points_of("other", [other]), "one", "other", "higher")
    assert found.difference.estimate == pytest.approx(-1.58)
    assert found.p == pytest.approx(0.002833, abs=5e-7) and found.p_family == found.p
    assert (found.difference.low, found.difference.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert found.better == "other" and found.verdict == "other is better"
    assert found.pairs == {BUDGETS[0]: 10} and found.trend is None and found.together is None


def test_several_budgets_are_averaged_with_each_ones_own_variance():
    d = np.array([[0.10, 0.14, 0.12], [0.06, 0.16, -0.01]])
    points = points_of("one", 2 + d, BUDGETS[:2]) + points_of("other", np.full((2, 3), 2.0), BUDGETS[:2])
    found = compare(points, "one", "other")
    w = d.var(1, ddof=1) / 3 / 4
    df = w.sum() ** 2 / (w**2 / 4).sum() - 2
    reach = t_quantile(0.95, df) * sqrt(w.sum())
    assert 2 < df < 4
    assert found.difference.estimate == pytest.approx(d.mean())
    assert found.difference.high - d.mean() == pytest.approx(reach) == d.mean() - found.difference.low
    assert found.p == pytest.approx(t_tails(d.mean() / sqrt(w.sum()), df))
    first = found.by_budget[BUDGETS[0]]
    assert first.estimate == pytest.approx(0.12) and first.high - 0.12 == pytest.approx(4.302653 * 0.02 / sqrt(3))
    assert found.noise == pytest.approx(sqrt(d.var(1, ddof=1).mean()))
    assert found.trend.estimate == pytest.approx((0.07 - 0.12) / 0.5)  # half a decade apart
    assert found.verdict == "other is better"


def test_what_seeds_share_cancels():
    points = study({"A": SAME, "B": SAME}, 1, Noise(0.003))
    shifts = {(p.budget, p.seed): 0.3 * i for i, p in enumerate(points)}
    shifted = [Point(p.arm, p.budget, p.seed, p.loss + shifts[p.budget, p.seed]) for p in points]
    quiet, loud = compare(points, "A", "B"), compare(shifted, "A", "B")
    assert loud.difference.estimate == pytest.approx(quiet.difference.estimate) and loud.p == pytest.approx(quiet.p)


def test_order_of_arms_and_of_points_does_not_matter():
    points = study({"A": SAME, "B": Truth(2.53, -0.08)}, 3, Noise(0.003, seed=0.01))
    found, turned = compare(points, "A", "B"), compare(points[::-1], "B", "A")
    assert turned.difference.estimate == pytest.approx(-found.difference.estimate)
    assert (turned.better, turned.p) == (found.better, pytest.approx(found.p)) and found.better == "A"


def test_higher_is_better_for_accuracies():
    points = study({"A": SAME, "B": Truth(2.6, -0.08)}, 3, Noise(0.003, seed=0.01))
    assert (compare(points, "A", "B").better, compare(points, "A", "B", "higher").better) == ("A", "B")
    with pytest.raises(ConfigError, match="measure 'best'"):
        compare(points, "A", "B", "best")


def test_only_paired_seeds_count():
    points = study({"A": SAME, "B": Truth(2.6, -0.08)}, 3, Noise(0.003))
    some = [p for p in points if p.arm == "A" or (p.seed < 2 and p.budget > BUDGETS[0]) or p.seed == 0]
    some = [p for p in some if not (p.budget == BUDGETS[1] and p.arm == "B" and p.seed == 1)]
    found = compare(some, "A", "B")
    assert found.pairs == dict.fromkeys(BUDGETS[2:], 2) and set(found.by_budget) == set(BUDGETS[2:])
    none = [p for p in points if (p.arm == "A") == (p.seed == 0)]
    missing = compare(none, "A", "B")
    assert missing.verdict.startswith("not compared: ") and missing.difference is None and missing.better is None
    with pytest.raises(ConfigError, match=r"'C' has no results to compare; arms with results: A, B"):
        compare(points, "A", "C")


def test_values_without_any_scatter_are_judged_by_their_signs():
    """Accuracies of 1.0 and 0.5 in every run: 15 equal signs decide, two do not."""
    many = points_of("one", np.ones((5, 3))) + points_of("other", np.full((5, 3), 0.5))
    found = compare(many, "one", "other", "higher")
    assert found.better == "one" and found.p == 2.0**-14 and found.difference.low == found.difference.high == 0.5
    few = compare(points_of("one", [[1.0, 1.0]]) + points_of("other", [[0.5, 0.5]]), "one", "other", "higher")
    assert few.better is None and (few.difference.low, few.difference.high) == (-inf, inf)
    equal = compare(points_of("one", np.ones((5, 3))) + points_of("other", np.ones((5, 3))), "one", "other")
    assert equal.p == 1 and equal.verdict == "inside the noise" and equal.difference.low == 0 == equal.difference.high


def test_a_rounding_is_no_scatter_and_signs_that_differ_decide_nothing():
    """Shares like 0.3 - 0.1 differ in their last bit from seed to seed; a mean of +0.5 and -0.4 has no sign."""
    low = np.array([[0.1, 0.2, 0.7]])
    one, other = points_of("one", low + 0.2), points_of("other", low)
    assert len({a.loss - b.loss for a, b in zip(one, other)}) > 1, "or nothing is tested here"
    found = compare(one + other, "one", "other", "higher")
    assert found.better is None and found.p == 2.0**-2 and found.difference.high == inf
    for noise in ("pair", "arms"):  # at two budgets six signs decide, and not a scatter of 1e-16
        two = np.concatenate([low, low])
        (found,) = compare_all(points_of("one", two + 0.2) + points_of("other", two), "higher", noise=noise)
        assert found.p == 2.0**-5 and found.together is None
        assert (found.by_seeds.low, found.by_seeds.high) == (-inf, inf), "three values of one sign decide nothing"
    apart = points_of("one", [[1.0] * 3, [0.1] * 3]) + points_of("other", [[0.5] * 3, [0.5] * 3])
    found = compare(apart, "one", "other", "higher")
    assert found.better is None and found.p == 1.0


def test_all_other_pairs_are_judged_together_and_with_the_noise_of_all():
    points = study({"A": SAME, "B": SAME, "C": Truth(2.6, -0.08), "D": SAME}, 1, Noise(0.003, seed=0.005))
    for noise in ("pair", "arms"):
        others = all_others(points, "lower", "A", noise)
        assert [(c.first, c.second) for c in others] == [("B", "C"), ("B", "D"), ("C", "D")]
        pairs = {(c.first, c.second): c for c in compare_all(points, noise=noise)}
        for found in others:
            same = pairs[found.first, found.second]
            assert found.difference == same.difference and found.p == same.p and found.noise == same.noise
            assert found.p_family <= same.p_family
    assert all_others(points, "lower", "X")[0].first == "A", "a reference without points is in no pair"


def test_seeds_that_move_together_at_all_budgets_are_told():
    generator = np.random.default_rng(0)
    d = generator.normal(size=(5, 3)) * 0.003 + np.array([0.02, 0.0, -0.02])
    drifting = points_of("one", 2 + d) + points_of("other", np.full((5, 3), 2.0))
    apart = points_of("one", 2 + generator.normal(size=(5, 3)) * 0.003) + points_of("other", np.full((5, 3), 2.0))
    assert compare(drifting, "one", "other").together < 1e-3 and compare(apart, "one", "other").together > 0.05
    found = compare(drifting, "one", "other")
    means = d.mean(0)
    assert found.by_seeds.estimate == pytest.approx(found.difference.estimate)
    assert found.by_seeds.high - means.mean() == pytest.approx(4.302653 * means.std(ddof=1) / sqrt(3))
    assert found.by_seeds.high > 3 * found.difference.high


def test_holm_goes_on_with_a_milder_level_after_each_decision():
    arms = {"A": SAME, "B": SAME, "C": Truth(2.6, -0.08)}
    found = {(c.first, c.second): c for c in compare_all(study(arms, 1, Noise(0.003, seed=0.005)))}
    assert list(found) == [("A", "B"), ("A", "C"), ("B", "C")]
    assert [c.better for c in found.values()] == [None, "A", "B"]
    assert sorted(round(1 - c.family.level, 4) for c in found.values()) == [0.0167, 0.025, 0.05]
    assert found["A", "B"].family.level == pytest.approx(0.95) and found["A", "B"].p_family == found["A", "B"].p


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_of_the_family_and_the_verdict_never_contradict_each_other(seed):
    arms = {name: Truth(2.5 + 0.004 * i, -0.08) for i, name in enumerate("ABCD")}
    for found in compare_all(study(arms, seed, Noise(0.003, seed=0.005))):
        assert (0 in found.family) == (found.better is None) == (found.p_family >= 0.05)
        assert found.family.low <= found.difference.low <= found.difference.high <= found.family.high
        if found.better is not None:
            assert found.better == (found.first if found.difference.estimate < 0 else found.second)


def test_arms_are_compared_with_a_reference_and_some_left_out():
    points = study(dict.fromkeys("ABCD", SAME), 1, Noise(0.003))
    assert [(c.first, c.second) for c in compare_all(points, reference="B", leave_out=["D"])] == [
        ("A", "B"),
        ("C", "B"),
    ]
    assert compare_all(points, leave_out="BCD") == ()
    with pytest.raises(ConfigError, match="'D' has no results to compare"):
        compare_all(points, reference="D", leave_out=["D"])


def test_noise_of_two_arms_is_the_same_as_that_of_all_where_there_are_two():
    points = study({"A": SAME, "B": Truth(2.51, -0.08)}, 4, Noise(0.003, seed=0.01))
    (own,), (pooled,) = compare_all(points), compare_all(points, noise="arms")
    assert pooled.p == pytest.approx(own.p) and pooled.noise == pytest.approx(own.noise)
    assert pooled.difference.high == pytest.approx(own.difference.high)


def test_noise_of_all_arms_is_what_arms_and_seeds_leave():
    """A two-way table without replicates: what is left is a third or two, and has four degrees of freedom."""
    table = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 4.0], [2.0, 4.0, 6.0]])
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    assert 3 * rest == pytest.approx(np.array([[1, 1, -2], [1, -2, 1], [-2, 1, 1]]))
    square = 2.0 / 4
    points = [p for arm, row in zip("ABC", table) for p in points_of(arm, [row], BUDGETS[:1])]
    found = compare_all(points, noise="arms")[0]
    reach = t_quantile(0.95, 4) * sqrt(2 * square / 3)
    assert found.difference.estimate == -1.0 and found.noise == pytest.approx(sqrt(2 * square))
    assert found.difference.high == pytest.approx(-1 + reach) == found.by_budget[BUDGETS[0]].high
    lonely = points_of("D", [[0.0, 50.0]], BUDGETS[:1])  # lacks a seed, so it tells nothing of the others' noise
    again = compare_all(points + lonely, noise="arms")[0]
    assert (again.first, again.second, again.p) == ("A", "B", found.p)


def test_noise_of_all_arms_counts_equal_arms_once_and_takes_no_rounding_for_scatter():
    one, other = [[2.1, 2.3, 2.55]], [[2.2, 2.25, 2.6]]
    points = [p for arm, row in (("A", one), ("B", other)) for p in points_of(arm, row, BUDGETS[:1])]
    twice = points + points_of("A again", one, BUDGETS[:1])
    assert compare_all(twice, noise="arms")[0].p == compare_all(points, noise="arms")[0].p
    (same,) = compare_all(points_of("A", one, BUDGETS[:1]) + points_of("B", one, BUDGETS[:1]), noise="arms")
    assert same.p == 1 and same.better is None
    shifted = [p for i, arm in enumerate("ABC") for p in points_of(arm, np.array([[1.0, 1.0, 2.0]]) + i, BUDGETS[:1])]
    assert {c.p for c in compare_all(shifted, noise="arms")} == {c.p for c in compare_all(shifted)} == {0.25}


def test_noise_of_all_arms_finds_more_and_names_equal_arms_no_more_often():
    inside = by_pairs = by_arms = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        equal = [p for arm in "ABCDEFG" for p in points_of(arm, 2 + 0.01 * generator.normal(size=(1, 3)))]
        inside += all(c.better is None for c in compare_all(equal, reference="A", noise="arms"))
        planted = [Point(p.arm, p.budget, p.seed, p.loss - 0.04 * (p.arm == "G")) for p in equal]
        by_pairs += compare_all(planted, reference="A")[-1].better == "G"
        by_arms += compare_all(planted, reference="A", noise="arms")[-1].better == "G"
    assert 180 <= inside <= 198
    computed = power(4 / sqrt(2), 1.0, 3, comparisons=6, arms=7)
    assert by_pairs < 40 and abs(by_arms / 200 - computed) <= 1.96 * sqrt(computed * (1 - computed) / 200) + 1e-3


NOISES = {
    "all alike": Noise(0.003, seed=0.004, budget=0.004),
    "seeds aside": Noise(0.01, seed=0.0),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_of_200_studies_of_equal_arms_90_to_99_percent_are_inside_the_noise(noise):
    studies = [compare_all(study(dict.fromkeys("ABCD", SAME), 500 + seed, noise)) for seed in range(200)]
    inside = sum(all(c.better is None for c in found) for found in studies)
    assert 180 <= inside <= 198
    # The control: six tests at 5% each, without Holm, call too many studies decided.
    assert sum(all(c.p >= 0.05 for c in found) for found in studies) < 175


def test_intervals_of_200_differences_hold_the_truth_where_small_budgets_are_noisier():
    hits = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        d = 0.01 + generator.normal(size=(5, 3)) * np.array([4, 2, 1, 0.5, 0.25])[:, None] * 0.01
        found = compare(points_of("A", 2 + d) + points_of("B", np.full((5, 3), 2.0)), "A", "B")
        hits += 0.01 in found.difference
    assert 180 <= hits <= 198


def test_a_test_without_pairs_would_lose_the_difference():
    """The control: by Welch's test of each budget's means, what seeds share would hide what pairs show."""
    arms = {"A": SAME, "B": Truth(2.51, -0.08)}
    paired = unpaired = 0
    for seed in range(100):
        points = study(arms, seed, Noise(0.002, seed=0.02))
        paired += compare(points, "A", "B").better == "A"
        a, b = (np.array([p.loss for p in points if p.arm == arm]).reshape(5, 3) for arm in "AB")
        error = sqrt(float((a.var(1, ddof=1) + b.var(1, ddof=1)).sum() / 3)) / 5
        unpaired += abs(float(a.mean() - b.mean())) > t_quantile(0.95, 20) * error
    assert paired > 95 and unpaired < 15
