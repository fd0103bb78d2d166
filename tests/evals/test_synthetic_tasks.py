"""Synthetic tasks: what they ask can be answered from what was read, and from nothing else."""

import hashlib

import numpy as np
import pytest

from hyla.errors import ConfigError
from hyla.evals.synthetic import (
    KINDS,
    MQAR,
    Copy,
    Needle,
    Overwrite,
    Palindrome,
    Recall,
    Stack,
    Turns,
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
    Needle(length=80, questions=3),
    Needle(length=19, needles=4, keys=9, values=5, fillers=2, questions=4),
    Turns(turns=5, keys=8),
    Turns(length=200, statements=2, tools=3, tool_tokens=2, questions=1, keys=5, values=9, fillers=2, hops=4),
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
        if task.kind == "turns":  # whose oracle follows links, and has to come to an end
            later[place + 1 :] = 0
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
    "needle-80": "9fb237110c8d8947",
    "needle-19": "1a2f21b2a2b143b9",
    "turns-105": "e8ff32dad4ed5b89",
    "turns-200": "811074879729d332",
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


def test_needles_stand_at_any_depth_and_fillers_follow_their_chain():
    task = Needle(length=60, needles=3, fillers=8, questions=1)
    tokens_NL = examples(task, "train", 0, 0, 900).tokens_NL
    places = np.nonzero(tokens_NL == 1)[1]
    # 2,700 needles among 49 fillers and 3 needles a row; a third of them in each third, with a deviation of 25.
    thirds = np.bincount(places * 3 // 58, minlength=3)
    assert len(places) == 2700 and thirds.min() > 775 and thirds.max() < 1025

    filler = np.stack([row[row >= 2 + task.keys + task.values] for row in tokens_NL]) - 66
    steps = np.bincount(((filler[:, 1:] - filler[:, :-1]) % 8).ravel(), minlength=8) / filler[:, 1:].size
    assert np.allclose(steps, [1 / 32, 17 / 32, 9 / 32] + [1 / 32] * 5, atol=0.01)


def turns_read(task, tokens):
    """Each turn's statements, tool results and questions, by the fixed plan of a turn: (what, its tokens)."""
    widths = {"statement": 3, "tool": task.tool_tokens + 2, "question": 2}
    found, place = [], 0
    for _ in range(task.turns):
        found.append([])
        for slot in task.slots():
            found[-1].append((slot, tokens[place : place + widths[slot]]))
            place += widths[slot]
    assert set(tokens[place:]) <= {0}
    return found


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_links_of_a_conversation_are_as_long_as_they_may_be_and_never_close(hops):
    task = Turns(turns=12, keys=10, hops=hops)
    longest = 0
    for tokens in examples(task, "train", 0, 0, 60).tokens_NL.tolist():
        link_of = {}
        for turn in turns_read(task, tokens):
            for slot, said in turn:
                if slot == "statement":
                    link_of[said[1]] = said[2] if said[0] == 2 else None
                if slot == "tool":
                    link_of |= {token: None for token in said[1:-1] if token < 6 + task.keys}
                for key in link_of:
                    count = 0
                    while (key := link_of[key]) is not None:
                        count += 1
                        assert count <= hops
                    longest = max(longest, count)
    assert longest == hops


def test_a_conversation_asks_about_turns_before_and_all_kinds():
    task = Turns(turns=8)
    counts, kinds, facts = np.zeros(8), {}, 0
    for tokens in examples(task, "train", 0, 0, 200).tokens_NL.tolist():
        said_before, said = set(), set()
        for turn in turns_read(task, tokens):
            for slot, part in turn:
                keys = [token for token in part[1:] if 6 <= token < 38]
                if slot == "question":
                    assert keys[0] in (said_before or said)
                else:
                    said |= set(keys[:1])
                    facts += slot == "tool" and len(keys)
            said_before = set(said)
        for asked in task.turn_of_question(tokens).values():
            counts[asked.turn - 1] += 1
            kinds[asked.kind] = kinds.get(asked.kind, 0) + 1
    assert counts.tolist() == [400] * 8
    assert set(kinds) == {"direct", "overwritten", "multi-hop", "tool"} and min(kinds.values()) > 320
    # 1,600 results, every other one with a fact, with a deviation of 20.
    assert 700 < facts < 900


def test_what_is_asked_is_told_apart():
    """Keys are 6 to 13, values from 14; turns of two statements, a tool result of four and a question."""
    task = Turns(length=36, statements=2, tool_tokens=4, questions=1, keys=8, values=4)
    first = [1, 6, 14, 3, 20, 20, 20, 20, 4, 1, 7, 15, 5, 6]
    second = [2, 8, 6, 3, 20, 7, 16, 20, 4, 1, 6, 17, 5]

    def asked(key):
        (found,) = [
            (x.answer, x.turn, x.age, x.kind)
            for place, x in task.turn_of_question([*first, *second, key]).items()
            if place == 27
        ]
        return found

    assert task.turn_of_question([*first, *second])[13].kind == "direct"
    assert asked(6) == (17, 2, 0, "overwritten")
    assert asked(7) == (16, 2, 0, "tool")
    assert asked(8) == (17, 2, 0, "multi-hop")


def test_a_task_of_turns_is_one_of_their_length():
    assert Turns(turns=4) == Turns(length=84) == Turns(turns=4, length=84)
    assert Turns(turns=3, statements=1, tools=0, questions=1).length == 15 and Turns(length=99).turns == 4


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
        ("needle", {"length": 64, "needles": 40}, "needles = 40 are more than keys = 32"),
        ("needle", {"length": 64, "questions": 5}, "questions = 5 are more than needles = 4"),
        ("needle", {"length": 15}, "length = 15 has no room for a filler; it takes 16 or more"),
        ("turns", {"length": 20}, "length = 20 has no turn; one takes 21 tokens"),
        ("turns", {"length": 64, "turns": 4}, "turns = 4 are 84 tokens, not length = 64"),
        ("turns", {"turns": 0}, "turns = 0 must be a number, 1 or more"),
    ],
)
def test_what_does_not_fit_is_an_error(kind, fields, text):
    with pytest.raises(ConfigError, match=text):
        KINDS[kind](**fields)
