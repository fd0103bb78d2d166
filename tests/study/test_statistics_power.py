"""Power computed beforehand: against published figures, against what is found, and what it plans."""

from math import sqrt

import numpy as np
import pytest

from hyla.errors import ConfigError
from hyla.study.statistics import Point, compare, compare_all, next_runs, power, smallest_difference
from hyla.study.statistics.distributions import rejection


def pairs(d):
    """Points of two arms whose differences are d [budgets, seeds]; budgets 1e12, 1e13, ..."""
    found = [(c, s, v) for c, row in enumerate(d) for s, v in enumerate(row)]
    return [Point(arm, 10.0 ** (12 + c), s, 2 + (v if arm == "A" else 0)) for c, s, v in found for arm in "AB"]


def test_one_budget_has_the_power_of_the_paired_t_test():
    # d = 0.5: 34 pairs for 0.80 (Cohen 1988 and G*Power: 0.8077775).
    assert power(0.5, 1.0, seeds=34) == pytest.approx(0.8077775, abs=1e-6)
    assert smallest_difference(1.0, seeds=34, wanted=0.8077775) == pytest.approx(0.5, abs=1e-4)
    assert power(3.0, 2.0, seeds=3, comparisons=6) == rejection(1.5 * sqrt(3), 2, 0.05 / 6)


def test_several_budgets_have_nearly_the_power_of_as_many_degrees_of_freedom():
    """Estimated degrees of freedom cost a little, never more than two hundredths, and give nothing away."""
    for difference in (0.5, 0.8, 1.2):
        ideal = rejection(difference * sqrt(15), 10)
        assert ideal - 0.02 < power(difference, 1.0, seeds=3, budgets=5) < ideal
    assert power(0.0, 1.0, seeds=3, budgets=5) == pytest.approx(0.047, abs=0.004)


PLANS = {"3 seeds": (3, 1), "2 seeds at 3 budgets": (2, 3), "3 seeds at 5 budgets": (3, 5)}


@pytest.mark.parametrize("plan", PLANS)
def test_twice_the_noise_is_found_as_often_as_was_computed(plan):
    """A difference of twice the standard deviation of a pair's difference, by 600 simulated studies."""
    seeds, budgets = PLANS[plan]
    computed = power(2.0, 1.0, seeds, budgets)
    generator = np.random.default_rng(8)
    studies = [pairs(2 + generator.normal(size=(budgets, seeds))) for _ in range(600)]
    found = sum(compare(points, "A", "B").better == "B" for points in studies) / len(studies)
    assert abs(found - computed) <= 1.96 * sqrt(computed * (1 - computed) / len(studies)) + 1e-3


@pytest.mark.parametrize(("seeds", "budgets"), [(3, 1), (3, 5)])
def test_the_smallest_difference_is_found_in_four_of_five_studies(seeds, budgets):
    difference = smallest_difference(0.01, seeds, budgets)
    assert power(difference, 0.01, seeds, budgets) == pytest.approx(0.8, abs=1e-6)
    generator = np.random.default_rng(9)
    studies = [pairs(difference + 0.01 * generator.normal(size=(budgets, seeds))) for _ in range(600)]
    found = sum(compare(points, "A", "B").better == "B" for points in studies) / len(studies)
    assert abs(found - 0.8) <= 1.96 * sqrt(0.16 / len(studies))


def test_the_power_does_not_depend_on_the_unit():
    assert power(0.02, 0.01, 3, 5) == power(2.0, 1.0, 3, 5)
    assert smallest_difference(0.01, 3) == pytest.approx(0.01 * smallest_difference(1.0, 3))


@pytest.mark.parametrize("plan", [{"noise": 0.0}, {"seeds": 1}, {"budgets": 0}, {"comparisons": 0}])
def test_a_plan_without_a_test_is_an_error(plan):
    with pytest.raises(ConfigError, match="no power without a test"):
        power(**{"difference": 1.0, "noise": 1.0, "seeds": 3} | plan)
    with pytest.raises(ConfigError, match="power of 1"):
        smallest_difference(1.0, 3, wanted=1)


def undecided(scale=1.0):
    """Three budgets, two seeds, a difference of 0.9 noises that is not yet seen."""
    d = 0.9 + np.array([[0.7, -0.7], [-0.7, 0.7], [0.7, -0.7]]) + np.array([[0.0], [0.3], [-0.3]])
    return compare(pairs(d * scale), "A", "B")


def test_the_next_runs_are_the_cheapest_that_decide():
    comparison = undecided()
    assert comparison.better is None
    plan = next_runs(comparison)
    seeds = [2 + plan.more_seeds.get(budget, 0) for budget in comparison.pairs]
    assert plan.power >= 0.8 and plan.assumed == pytest.approx(0.9)
    assert seeds == sorted(seeds, reverse=True) and seeds[0] > seeds[-1]  # seeds go where they cost least
    assert plan.total_flops == sum(2 * budget * more for budget, more in plan.more_seeds.items())
    assert plan.first == 1e12 and "begin at 1e+12" in plan.words and f"{plan.power:.0%}" in plan.words


def test_the_next_runs_are_no_more_than_are_needed():
    comparison = undecided()
    alike = next_runs(comparison, costs=dict.fromkeys(comparison.pairs, 1.0))
    seeds = [2 + alike.more_seeds.get(budget, 0) for budget in comparison.pairs]
    assert max(seeds) - min(seeds) <= 1
    assert power(0.9, comparison.noise, min(seeds) - 1, 3) < 0.8 <= alike.power


def test_planned_runs_decide_as_often_as_they_say():
    plan = next_runs(undecided(), costs=dict.fromkeys((1e12, 1e13, 1e14), 1.0))
    generator = np.random.default_rng(10)
    noise, found = undecided().noise, 0
    for _ in range(400):
        d = [0.9 + noise * generator.normal(size=2 + plan.more_seeds.get(10.0 ** (12 + i), 0)) for i in range(3)]
        found += compare(pairs(d), "A", "B").better == "B"
    assert abs(found / 400 - plan.power) <= 1.96 * sqrt(plan.power * (1 - plan.power) / 400)


def test_what_no_seeds_decide_is_said():
    comparison = undecided()
    never = next_runs(comparison, assumed=0.01)
    assert never.first is None and never.more_seeds == {} and "would not be shown by 64 seeds" in never.words
    decided = next_runs(compare(pairs([[1.0, 1.1, 0.9]]), "A", "B"))
    assert decided.first is None and "decided, B is better" in decided.words
    alone = next_runs(compare(pairs([[1.0]]), "A", "B"))
    assert alone.first is None and "two seeds of both arms" in alone.words
    equal = next_runs(compare(pairs([[0.0, 0.0]]), "A", "B"))
    assert equal.first is None and "no difference was seen" in equal.words
    with pytest.raises(ConfigError, match=r"budgets 1e\+13, 1e\+14"):
        next_runs(comparison, costs={1e12: 1.0})


def test_among_several_comparisons_the_power_is_at_least_what_was_computed():
    """Three arms, one of them other by two noises; Holm's later levels only help."""
    computed = power(2.0, 1.0, seeds=3, budgets=2, comparisons=3)
    generator = np.random.default_rng(11)
    found = 0
    for _ in range(300):
        errors = generator.normal(size=(3, 2, 3)) / sqrt(2) + np.array([0.0, 0.0, 2.0])[:, None, None]
        points = [
            Point(arm, 10.0 ** (12 + c), seed, 9 + value)
            for arm, table in zip("ABC", errors)
            for c, row in enumerate(table)
            for seed, value in enumerate(row)
        ]
        (pair,) = (c for c in compare_all(points) if (c.first, c.second) == ("A", "C"))
        found += pair.better == "A"
    assert computed < power(2.0, 1.0, seeds=3, budgets=2)
    assert found / 300 >= computed - 1.96 * sqrt(computed * (1 - computed) / 300)
