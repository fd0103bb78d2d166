"""What a reader has right who knows which tokens are values, and not which belongs to what."""

import numpy as np
import pytest

from hyla.evals.synthetic import Needle, Recall, Stack, Variables
from hyla.evals.synthetic.guesses import FIRST, LAST, MOST, best_guess
from hyla.evals.synthetic.protocol import IGNORED, Examples


def made_up(monkeypatch, tokens, targets):
    shape = np.array(tokens)
    found = Examples(shape, np.array(targets), np.zeros(shape.shape, bool))
    monkeypatch.setattr("hyla.evals.synthetic.guesses.examples", lambda *_: found)


@pytest.mark.parametrize(
    ("targets", "value", "share"),
    [
        ([9, 9, 8, 9], FIRST, 3 / 4),
        ([7, 7, 9, 7], LAST, 3 / 4),
        ([8, 8, 7, 9], MOST, 2 / 4),
    ],
)
def test_the_best_of_three_readers_counts(monkeypatch, targets, value, share):
    """9, 8, 8, 7 were read, then four questions; what is no answer anywhere is no value."""
    made_up(monkeypatch, [[9, 8, 8, 7, 1, 2, 3, 4]], [[IGNORED] * 4 + targets])
    found = best_guess(Recall(length=16, keys=8, values=8))
    assert (found.value, found.share) == (value, share)


def test_a_task_that_asks_nothing_has_no_right_guess():
    assert best_guess(Stack(length=4, stacks=4, symbols=4)).share >= 0.0


def test_guesses_of_tasks_are_over_chance():
    """Two needles: one of two values. Ten of sixteen values: the most frequent one. Counted by a program of its own
    when these tasks were reviewed."""
    needle = Needle(length=64, needles=2, keys=16, values=16, fillers=16)
    recall = Recall(length=32, keys=16, values=16)
    variables = Variables(length=32, hops=1, variables=16, values=16)
    assert best_guess(needle).share == pytest.approx(0.54, abs=0.03) and needle.chance < 0.07
    assert best_guess(recall).share == pytest.approx(0.23, abs=0.02) and recall.chance < 0.07
    assert best_guess(variables).share == pytest.approx(0.50, abs=0.03) and best_guess(variables).value == FIRST
    assert best_guess(Stack(length=256, stacks=64, symbols=64)).value == LAST
