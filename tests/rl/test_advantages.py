"""Advantages: closed forms, samples left out, groups without signal."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyla.errors import ConfigError
from hyla.rl.advantages import advantages, is_equal

KINDS = ("group", "group_mean", "leave_one_out", "batch_mean")
GROUPS = [[1.0, 0.0, None, 0.0, 0.0], [3.0, 5.0]]


@pytest.mark.parametrize(
    "kind, expected",
    [
        # mean 1/4, variance 3/16; mean 4, variance 1
        ("group", [[math.sqrt(3), -1 / math.sqrt(3), None, -1 / math.sqrt(3), -1 / math.sqrt(3)], [-1.0, 1.0]]),
        ("group_mean", [[0.75, -0.25, None, -0.25, -0.25], [-1.0, 1.0]]),
        ("leave_one_out", [[1.0, -1 / 3, None, -1 / 3, -1 / 3], [-2.0, 2.0]]),
        ("batch_mean", [[-0.5, -1.5, None, -1.5, -1.5], [1.5, 3.5]]),  # mean of six: 1.5
        ("none", GROUPS),
    ],
)
def test_each_kind_has_its_closed_form(kind, expected):
    found = advantages(GROUPS, kind)
    for group, wanted in zip(found, expected, strict=True):
        assert [one is None for one in group] == [one is None for one in wanted]
        assert [one for one in group if one is not None] == pytest.approx(
            [one for one in wanted if one is not None], rel=1e-15
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [[0.1, 0.1, 0.1], [0.1], [None, 0.7, None, 0.7], [None, None], []])
def test_equal_rewards_are_worth_exactly_nothing(kind, group):
    assert is_equal(group)
    assert advantages([group], kind) == [[None if reward is None else 0.0 for reward in group]]


def test_groups_with_signal_are_not_equal():
    assert not is_equal([0.0, None, 1e-300]) and not is_equal([1.0, math.nextafter(1.0, 2.0)])


def test_a_batch_that_differs_between_its_groups_only_has_signal_for_the_batch_mean_alone():
    groups = [[1.0, 1.0], [0.0, 0.0]]
    assert advantages(groups, "batch_mean") == [[0.5, 0.5], [-0.5, -0.5]]
    assert advantages(groups, "group") == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_and_the_largest_differences_divide_by_nothing(kind):
    for group in ([0.0, 1e-300, 0.0], [1.0, math.nextafter(1.0, 2.0)], [1e30, -1e30, 0.0]):
        (found,) = advantages([group], kind)
        assert all(map(math.isfinite, found)) and any(found)
    assert advantages([[0.0, 1e-300]], "group") == [[-1.0, 1.0]]


REWARDS = st.lists(st.none() | st.floats(-1e3, 1e3), max_size=9)


@given(st.lists(REWARDS, max_size=4))
def test_what_is_left_out_changes_nobody_elses_advantage(groups):
    present = [[reward for reward in group if reward is not None] for group in groups]
    for kind in KINDS:
        assert [[one for one in group if one is not None] for group in advantages(groups, kind)] == advantages(
            present, kind
        )


@given(REWARDS.flatmap(lambda group: st.tuples(st.just(group), st.permutations(range(len(group))))))
def test_the_order_of_a_groups_samples_changes_no_bit(case):
    group, order = case
    for kind in KINDS:
        ((turned,), (plain,)) = advantages([[group[place] for place in order]], kind), advantages([group], kind)
        assert turned == [plain[place] for place in order]


@given(st.lists(st.integers(-8, 8).map(float), min_size=2, max_size=9).filter(lambda group: not is_equal(group)))
def test_normalised_advantages_have_mean_0_and_variance_1(group):
    (found,) = advantages([group], "group")
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-12)
    assert math.fsum(one * one for one in found) / len(found) == pytest.approx(1.0, rel=1e-12)


def test_an_unknown_kind_is_named():
    with pytest.raises(ConfigError, match="'grpo' are unknown; choose one of group, group_mean"):
        advantages([[1.0]], "grpo")
