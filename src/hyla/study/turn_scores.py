"""Right answers of conversations by kind of question, and by how many turns ago the answer was said."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from hyla.evals.synthetic.learning import heldout_passes, right_answers
from hyla.evals.synthetic.turns import Asked, Turns
from hyla.models.trunk import Model
from hyla.study.mixture import moved

ALL = "all"


def parts_of(asked: Asked) -> tuple[str, str]:
    """What a question counts for: its kind, and its age in turns, by powers of two."""
    if asked.age < 2:
        return asked.kind, ("said in the same turn", "said one turn ago")[asked.age]
    low = 1 << (asked.age.bit_length() - 1)
    return asked.kind, f"said {low} to {2 * low - 1} turns ago"


@torch.no_grad()
def score_turns(model: Model, task: Turns, first_id: int, examples: int) -> tuple[float, dict[str, float]]:
    """The share of right answers on the first `examples` of the test split: of all, and by part. Parts that nobody
    asked for are left out."""
    right: dict[str, int] = {}
    count: dict[str, int] = {}
    for rows in heldout_passes(task, examples):
        is_right = right_answers(model, moved(rows, first_id)).tolist()
        for part, one in zip(_parts(task, rows.tokens_T.tolist()), is_right, strict=True):
            for name in (ALL, *part):
                right[name] = right.get(name, 0) + one
                count[name] = count.get(name, 0) + 1
    shares = {name: right[name] / count[name] for name in sorted(count)}
    return shares.pop(ALL), shares


def _parts(task: Turns, tokens: list[int]) -> Iterable[tuple[str, str]]:
    """Of all questions of some examples, in their order."""
    for first in range(0, len(tokens), task.length):
        found = task.turn_of_question(tokens[first : first + task.length])
        for place in sorted(found):
            yield parts_of(found[place])
