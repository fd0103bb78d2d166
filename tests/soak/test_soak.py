"""A short soak; `make soak` is the long one."""

import pytest
from soak.load import Alone, Soak, soak
from soak.traffic import questions


@pytest.fixture(scope="module")
def result():
    return soak(150, num_questions=40, share=22)


def test_no_answer_is_wrong_and_nothing_is_left(result):
    assert result.problems == []
    assert result.counts["requests"] == 150


def test_the_load_forces_what_it_is_for(result):
    for name in ("preemptions", "evicted pages", "evicted checkpoints", "cached tokens", "accepted tokens"):
        assert result.counts[name] > 0, name
    for reason in ("length", "stop", "cancelled", "deadline"):
        assert result.counts[f"choices that ended with {reason}"] > 0, reason


def test_memory_stays_bounded(result):
    assert result.rss[-1] - result.rss[2] < 32 << 20


def test_a_leaked_page_and_a_wrong_answer_are_seen():
    alone = Alone(questions(10, 3))
    soak = Soak("lookup", alone, 3)
    wrong = alone.answers(alone.pool[1])[0]
    alone.answers = lambda question: [wrong] * question.params.n
    soak.engine.cache.ledger.pages.take(1)
    result = soak.run(4)
    assert "is not Completion" in result.problems[0] and result.problems[-1] == "1 pages leaked"
