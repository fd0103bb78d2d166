"""Student's and Fisher's distributions against printed tables."""

from math import sqrt

import pytest

from hyla.study.statistics.distributions import f_tail, rejection, shift_for, t_quantile, t_tails


@pytest.mark.parametrize(
    ("df", "five_percent", "one_percent"),
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (10, 2.228, 3.169),
        (30, 2.042, 2.750),
        (1e7, 1.960, 2.576),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(df, five_percent, one_percent):
    assert t_quantile(0.95, df) == pytest.approx(five_percent, abs=6e-4)
    assert t_quantile(0.99, df) == pytest.approx(one_percent, abs=6e-4)
    assert t_tails(t_quantile(0.99, df), df) == pytest.approx(0.01, rel=1e-9)


def test_quantiles_between_whole_degrees_of_freedom_lie_between():
    assert t_quantile(0.95, 3) < t_quantile(0.95, 2.5) < t_quantile(0.95, 2)
    assert t_tails(0, 4) == 1 and t_tails(-3.0, 5) == t_tails(3.0, 5)


@pytest.mark.parametrize(("f", "df", "other_df"), [(4.459, 2, 8), (161.45, 1, 1), (4.965, 1, 10), (2.711, 5, 20)])
def test_tails_of_f_are_those_of_the_five_percent_table(f, df, other_df):
    assert f_tail(f, df, other_df) == pytest.approx(0.05, abs=5e-5)


def test_power_of_the_t_test_is_the_published_one():
    # R's power.t.test(n = 20, delta = 1, sd = 1), two samples: 0.8689528, where it leaves out the far tail (2e-7).
    assert rejection(sqrt(20 / 2), 38) == pytest.approx(0.8689528, abs=5e-7)
    # Cohen (1988), table 2.3.5: d = 0.5, n = 64 in each of two groups: 0.80.
    assert rejection(0.5 * sqrt(64 / 2), 126) == pytest.approx(0.80, abs=0.005)
    # G*Power's and R's one sample d = 0.5: 33.37 pairs for 0.80.
    assert rejection(0.5 * sqrt(33.36713), 32.36713) == pytest.approx(0.80, abs=1e-6)


def test_power_without_a_difference_is_the_tests_level():
    for df in (1, 2, 3, 10, 4.5):
        assert rejection(0, df) == pytest.approx(0.05, abs=1e-9)
        assert rejection(0, df, 0.01) == pytest.approx(0.01, abs=1e-9)


def test_the_shift_for_a_power_has_it():
    assert rejection(shift_for(0.8, 7), 7) == pytest.approx(0.8, abs=1e-9)
