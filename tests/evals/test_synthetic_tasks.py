"""Synthetic tasks: what they ask can be answered from what was read, and from nothing else."""

import hashlib

import numpy as np
import pytest

from hyla.errors import ConfigError
from hyla.evals.synthetic import (
    KINDS,
    MQAR,
    Copy,
    Overwrite,
    Palindrome,
    Recall,
    Stack,
    Variables,
    examples,
    is_test,
    with_other_content,
)
from hyla.evals.synthetic.protocol import IGNORED
from hyla.evals.synthetic.words import distinct, words

TASKS = [
    MQAR(length=64, vocab=256),
    MQAR(length=96, pairs=24, vocab=64),
    Recall(length=47, keys=40, values=32),
    Overwrite(length=64),
    Copy(length=32),
    Palindrome(length=32),
    Stack(length=200, stacks=5),
    Variables(length=64),
    Variables(length=99, hops=0),
]
MANY = 400


def name_of(task):
    return f"{task.kind}-{task.length}"


def share_of_right(task, found, targets_NL):
    """The oracle's share of right answers; it sees the tokens alone."""
    right = answers = 0
    for tokens_L, targets_L in zip(found.tokens_NL, targets_NL):
        said = task.solve(tokens_L.tolist())
        for place in np.flatnonzero(targets_L != IGNORED):
            answers += 1
            right += said[int(place)] == targets_L[place]
    return right / answers, answers


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_the_oracle_is_right_and_without_the_context_nobody_is(task):
    found = examples(task, "train", seed=3, first=17, count=MANY)
    assert share_of_right(task, found, found.targets_NL)[0] == 1.0

    guessed, answers = share_of_right(task, with_other_content(found, seed=1), found.targets_NL)

    # Answers of one example are not independent: as few as there are examples.
    spread = (task.chance * (1 - task.chance) / MANY) ** 0.5
    assert guessed < task.chance + 5 * spread
    assert answers >= MANY


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_an_answer_follows_from_what_came_before_it(task):
    """Whatever is changed behind a question, the oracle's answer to it stays."""
    found = examples(task, "train", seed=0, first=0, count=20)
    for tokens_L, targets_L in zip(found.tokens_NL, found.targets_NL):
        place = int(np.flatnonzero(targets_L != IGNORED)[0])
        later = tokens_L.copy()
        later[place + 1 :] = later[place + 1 :][::-1]
        if task.kind == "stack":  # whose oracle reads whole operations
            later = np.concatenate([tokens_L[: place + 2], tokens_L[: len(tokens_L) - place - 2]])
            later[place + 2 :] = 1
        assert task.solve(later.tolist())[place] == targets_L[place]


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_tokens_and_targets_are_in_the_vocabulary(task):
    found = examples(task, "test", seed=0, first=0, count=50)

    assert found.tokens_NL.min() >= 0 and found.tokens_NL.max() < task.vocab_size
    assert found.targets_NL.min() == IGNORED and found.targets_NL.max() < task.vocab_size
    assert (found.targets_NL != IGNORED).any(axis=1).all()


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_no_example_is_of_both_splits(task):
    train = examples(task, "train", seed=0, first=0, count=2000)
    test = examples(task, "test", seed=1, first=0, count=500)

    assert not is_test(train.tokens_NL).any() and is_test(test.tokens_NL).all()
    assert not {row.tobytes() for row in train.tokens_NL} & {row.tobytes() for row in test.tokens_NL}


def test_a_small_task_uses_both_splits_up():
    task = Copy(length=4, symbols=5)
    train = {row.tobytes() for row in examples(task, "train", 0, 0, 2000).tokens_NL}
    test = {row.tobytes() for row in examples(task, "test", 0, 0, 2000).tokens_NL}

    assert len(train) + len(test) == 25 and not train & test and test


def test_a_task_without_a_test_example_says_so():
    task = next(
        task
        for symbols in range(2, 9)
        if not is_test(np.array([[1, 1, 0, 1], [1, 2, 0, 1], [2, 1, 0, 2], [2, 2, 0, 2]], np.int32)).any()
        for task in [Copy(length=4, symbols=2)]
    )
    with pytest.raises(ConfigError, match="copy of length 4 has too few examples for a test split"):
        examples(task, "test", 0, 0, 1)


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_an_example_is_a_function_of_its_number(task):
    whole = examples(task, "train", seed=5, first=100, count=30)
    part = examples(task, "train", seed=5, first=110, count=7)

    assert np.array_equal(part.tokens_NL, whole.tokens_NL[10:17])
    assert np.array_equal(part.targets_NL, whole.targets_NL[10:17])


DIGESTS = {
    "mqar-64": "37f37e3a101a78e5",
    "mqar-96": "0b5d205fb740d78b",
    "recall-47": "cc0165ecde5035ed",
    "overwrite-64": "70e8fe204eb3c748",
    "copy-32": "342e4f73835833f9",
    "palindrome-32": "9d01bc4a8ae483fb",
    "stack-200": "a4a22e8fc34f2523",
    "variables-64": "81a7033475499905",
    "variables-99": "3298f05819a523f5",
}


@pytest.mark.parametrize("task", TASKS, ids=name_of)
def test_examples_are_the_same_bytes_everywhere(task):
    found = examples(task, "test", seed=7, first=1000, count=64)
    digest = hashlib.sha256(found.tokens_NL.tobytes() + found.targets_NL.tobytes()).hexdigest()[:16]

    assert digest == DIGESTS[name_of(task)]


def test_numbers_are_drawn_alike_and_none_twice():
    found = distinct(words(1, np.arange(6000), 6), 5, 3)

    assert all(len(set(row)) == 3 for row in found.tolist())
    counts = [np.bincount(found[:, place], minlength=5) for place in range(3)]
    # 1,200 are expected, with a standard deviation of 31.
    assert all(1050 < count < 1350 for row in counts for count in row)


def test_questions_of_mqar_come_soon_unless_told_otherwise():
    soon, anywhere = (
        examples(MQAR(length=256, vocab=256, power=power), "train", 0, 0, 300).targets_NL != IGNORED
        for power in (0.01, 1.0)
    )
    places = np.arange(256)
    assert (soon * places).sum() / soon.sum() < 70
    assert 120 < (anywhere * places).sum() / anywhere.sum() < 145


def test_all_stacks_are_used_and_none_is_popped_empty():
    task = Stack(length=300, stacks=4)
    found = examples(task, "train", 0, 0, 50)

    depth = np.zeros((50, 4), int)
    for place in range(0, 300, 3):
        what, stack = found.tokens_NL[:, place], found.tokens_NL[:, place + 1] - 3
        depth[np.arange(50), stack] += np.where(what == 1, 1, -1)
        assert depth.min() >= 0
    assert set(np.unique(found.tokens_NL[:, 1::3])) == {3, 4, 5, 6}


def test_variables_take_as_many_hops_as_they_may():
    def hops(tokens, task):
        found, steps = {}, []
        for place in range(0, 3 * task.definitions, 3):
            what, name, source = tokens[place : place + 3]
            found[name] = 0 if what == 1 else found[source] + 1
            steps.append(found[name])
        return max(steps)

    for most in (0, 1, 3):
        task = Variables(length=120, hops=most)
        found = examples(task, "train", 0, 0, 40).tokens_NL.tolist()
        assert max(hops(tokens, task) for tokens in found) == most


@pytest.mark.parametrize(
    "kind, fields, text",
    [
        ("mqar", {"length": 64, "pairs": 17}, "17 pairs and their questions need 68 tokens, not 64"),
        ("mqar", {"length": 63}, "must be even"),
        ("mqar", {"length": 64, "pairs": 4, "vocab": 8}, "vocab = 8 has 3 keys, fewer than 4 pairs"),
        ("recall", {"length": 64, "keys": 20}, "21 pairs, more than keys = 20"),
        ("copy", {"length": 7}, "must be even"),
        ("variables", {"length": 400}, "100 definitions, more than variables = 64"),
        ("stack", {"length": 64, "stack": 3}, "stack"),
    ],
)
def test_what_does_not_fit_is_an_error(kind, fields, text):
    with pytest.raises(ConfigError, match=text):
        KINDS[kind](**fields)
