"""The recommendation: the cheapest arm that is not worse than the best beyond the noise, and what it says."""

import numpy as np
import pytest

from hyla.errors import ConfigError
from hyla.study.statistics import Cost, compare_all, recommend
from hyla.study.statistics.simulated import Noise, Truth, simulate

BUDGETS = tuple(float(x) for x in np.geomspace(1e12, 1e14, 5))
COSTS = {"full": Cost(8e6, 3.0), "3:1": Cost(2e6, 1.5), "7:1": Cost(1e6, 1.4), "pure": Cost(1e5, 1.3)}
NOISE = Noise(0.002, seed=0.005)


def compared(heights, measure="lower", seed=0):
    arms = {arm: Truth(height, -0.08) for arm, height in heights.items()}
    return compare_all(simulate(arms, BUDGETS, 3, NOISE, np.random.default_rng(seed)), measure)


BITS = {"full": 2.5, "3:1": 2.5, "7:1": 2.5, "pure": 2.6}


def test_the_cheapest_of_the_tied_arms_is_taken():
    found = recommend({"bits": compared(BITS)}, COSTS)
    assert (found.arm, found.tied, found.is_inside_the_noise) == ("7:1", ("7:1", "3:1", "full"), True)
    assert found.worse == {"pure": ("bits",)} and found.best != "pure"
    assert found.words.startswith("Inside the noise: 7:1, 3:1, full cannot be told apart by this study.")
    assert "Take 7:1, the cheapest of them (1,000,000 bytes of cache, 1.4 ms a token)." in found.words
    assert "Worse than the best beyond the noise: pure (bits)." in found.words


def test_how_much_worse_a_tied_arm_may_be_is_said():
    comparisons = compared(BITS | {"7:1": 2.501})
    found = recommend({"bits": comparisons}, COSTS)
    (pair,) = (c for c in comparisons if {c.first, c.second} == {found.arm, found.best})
    most = pair.difference.high if pair.first == found.arm else -pair.difference.low
    assert found.arm != found.best and most > 0
    assert f"{found.arm} may be worse than it by up to {most:.3g} (95%)" in found.words


def test_a_clear_winner_is_not_called_noise():
    found = recommend({"bits": compared({"full": 2.4, "3:1": 2.5, "pure": 2.6})}, COSTS)
    assert (found.arm, found.best, found.tied, found.is_inside_the_noise) == ("full", "full", ("full",), False)
    assert found.words.startswith("Take full (8,000,000 bytes") and "Inside the noise" not in found.words


def test_an_arm_has_to_be_as_good_in_every_measure():
    recall = compared({"full": 0.9, "3:1": 0.9, "7:1": 0.7, "pure": 0.3}, "higher")
    found = recommend({"bits": compared(BITS), "recall": recall}, COSTS)
    assert found.arm == "3:1" and found.worse == {"7:1": ("recall",), "pure": ("bits", "recall")}


def test_where_no_arm_is_good_at_everything_the_first_measure_decides():
    bits = compared({"full": 2.4, "pure": 2.6})
    found = recommend({"bits": bits, "recall": compared({"full": 0.3, "pure": 0.9}, "higher")}, COSTS)
    assert found.arm == "full" and found.tied == () and not found.is_inside_the_noise
    assert "No arm is as good as the best in every measure. By bits alone, take full" in found.words


def test_equal_caches_are_told_apart_by_time_and_time_may_be_missing():
    same = compared({"slow": 2.5, "fast": 2.5, "untimed": 2.5})
    costs = {"slow": Cost(1e6, 2.0), "fast": Cost(1e6, 1.0), "untimed": Cost(1e6)}
    assert recommend({"bits": same}, costs).tied == ("fast", "slow", "untimed")


def test_what_was_not_compared_is_said():
    why = {"1:1": "its best rate is the grid's highest"}
    found = recommend({"bits": compared(BITS)}, COSTS, why)
    assert found.left_out == why and found.words.endswith("Not compared: 1:1 (its best rate is the grid's highest).")
    nothing = recommend({"bits": ()}, COSTS, why)
    assert nothing.arm is None and "no two arms could be compared" in nothing.words and "1:1" in nothing.words
    assert recommend({}, {}).arm is None


def test_an_arm_that_was_never_beside_the_best_is_left_out():
    arms = {"full": Truth(2.4, -0.08), "3:1": Truth(2.5, -0.08), "7:1": Truth(2.5, -0.08)}
    points = simulate(arms, BUDGETS, 4, NOISE, np.random.default_rng(0))
    seeds = {"full": (0, 1), "3:1": (0, 1, 2, 3), "7:1": (2, 3)}
    found = recommend({"bits": compare_all([p for p in points if p.seed in seeds[p.arm]])}, COSTS)
    assert (found.arm, found.best, found.tied) == ("full", "full", ("full",))
    assert found.left_out == {"7:1": "no paired seeds with full, the best"} and "7:1 (no paired" in found.words


def test_an_arm_without_costs_is_an_error():
    with pytest.raises(ConfigError, match="no cost of the arms pure"):
        recommend({"bits": compared(BITS)}, {arm: cost for arm, cost in COSTS.items() if arm != "pure"})
