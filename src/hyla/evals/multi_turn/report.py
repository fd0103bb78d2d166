"""Scores of conversations as tables, a page and a plot: by number of turns, by turn, by kind of question, by age."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from hyla.evals.multi_turn.run import Answer, Conversation
from hyla.evals.multi_turn.score import OUTCOMES
from hyla.evals.multi_turn.script import KINDS
from hyla.train.intervals import interval_of_groups

Results = Mapping[str, Sequence[Conversation]]
"""By model's name, the same conversations in the same order; the model first, then its twin, if any."""
Key = Callable[[Conversation, Answer], Hashable]
Share = tuple[float, float, float, int]
"""A mean, its interval, and how many values it is of."""

AGES = ((0, "in the same turn"), (1, "1 turn before"), (3, "2 to 3 turns before"), (1 << 30, "4 turns before or more"))


def share(lines: Sequence[Conversation], key: Key, value: Hashable, other: Sequence[Conversation] = ()) -> Share | None:
    """Of answers with this key: the share that are right, with the 95% bootstrap interval over conversations, and their
    number. other: another model's, whose right answers are subtracted, question by question. None: there are none."""
    groups = []
    for place, line in enumerate(lines):
        found = [at for at, answer in enumerate(line.answers) if key(line, answer) == value]
        minus = [other[place].answers[at].is_right for at in found] if other else [False] * len(found)
        groups.append([float(line.answers[at].is_right) - less for at, less in zip(found, minus)])
    groups = [group for group in groups if group]
    if not groups:
        return None
    count = sum(map(len, groups))
    return sum(map(sum, groups)) / count, *interval_of_groups(groups), count


def table(results: Results, title: str, key: Key, values: Mapping[Hashable, str]) -> list[list[str]]:
    """A row for each value that questions have, a column for each model, and the difference where there are two."""
    names = list(results)
    first, *others = results.values()
    rows = [[title, "questions", *names, *["difference"] * len(others)]]
    for value, shown in values.items():
        found = [share(lines, key, value) for lines in results.values()]
        if found[0] is None:
            continue
        cells = [_shown(one) for one in found if one is not None]
        differences = [_shown(share(first, key, value, other), "+") for other in others]
        rows.append([shown, str(found[0][3]), *cells, *differences])
    return rows


def _shown(found: Share | None, sign: str = "") -> str:
    assert found is not None
    mean, low, high, _ = found
    return f"{mean:{sign}.1%} ({low:{sign}.1%} to {high:{sign}.1%})"


def by_turns(results: Results) -> list[list[str]]:
    """By the conversation's number of turns."""
    turns = sorted({line.turns for lines in results.values() for line in lines})
    return table(results, "turns", lambda line, answer: line.turns, {n: str(n) for n in turns})


def tables(results: Results) -> list[list[list[str]]]:
    """All of them."""
    most = max(line.turns for lines in results.values() for line in lines)
    return [
        by_turns(results),
        table(results, "turn", lambda line, answer: answer.turn, {n: str(n) for n in range(1, most + 1)}),
        table(results, "kind of question", lambda line, answer: answer.kind, {kind: kind for kind in KINDS}),
        table(results, "the number was said", lambda line, answer: _age(answer.age), dict(AGES)),
    ]


def _age(turns: int) -> int:
    return next(most for most, _ in AGES if turns <= most)


def markdown(results: Results, forms: Mapping[str, str]) -> str:
    """The report as a page. forms: how each model's conversations were written."""
    shown = "\n\n".join(map(_as_markdown, tables(results)))
    told = "\n".join(f"- {name}: {forms[name]}. {_costs(lines)}" for name, lines in results.items())
    difference = " Differences are of the same questions." if len(results) > 1 else ""
    return f"""# Conversations of many turns

{shown}

Share of questions whose answer has the wanted number and no other one of the conversation's, in brackets the 95% \
bootstrap interval over conversations.{difference}

{told}

{_as_markdown(outcomes(results))}
"""


def outcomes(results: Results) -> list[list[str]]:
    """What the answers had."""
    meaning = {
        "right": "the number",
        "outdated": "a number that was right before",
        "other": "a number that never was",
        "several": "several numbers",
        "none": "no number of the conversation",
    }
    rows = [["the answer had", *results]]
    for outcome in OUTCOMES:
        said = [[answer.said for line in lines for answer in line.answers] for lines in results.values()]
        rows.append([meaning[outcome], *(f"{each.count(outcome) / len(each):.1%}" for each in said)])
    return rows


def _costs(lines: Sequence[Conversation]) -> str:
    answers = [answer for line in lines for answer in line.answers]
    read, written = sum(one.tokens for one in answers), sum(one.answer_tokens for one in answers)
    cached = sum(one.cached_tokens for one in answers)
    right = sum(one.is_right for one in answers)
    whole = sum(all(answer.is_right for answer in line.answers) for line in lines)
    each = ""
    if right:
        each = f"; for each right answer {(read + written) / right:,.0f} tokens, {cached / right:,.0f} of them cached"
    return (
        f"{read:,} tokens were read ({cached:,} of them from the prefix cache) and {written:,} written; {right} of "
        f"{len(answers)} answers were right and {whole} of {len(lines)} conversations wholly{each}."
    )


def _as_markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def plot(results: Results, file: Path) -> None:
    """The share of right answers by turn, with intervals, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, lines) in enumerate(results.items()):
        found = {
            n: share(lines, lambda line, answer: answer.turn, n) for n in range(1, max(x.turns for x in lines) + 1)
        }
        shares = {turn: one for turn, one in found.items() if one is not None}
        means = [mean for mean, *_ in shares.values()]
        errors = [
            [max(0.0, mean - low) for mean, low, _, _ in shares.values()],
            [max(0.0, high - mean) for mean, _, high, _ in shares.values()],
        ]
        places = [turn + 0.08 * number for turn in shares]
        axes.errorbar(
            places, means, yerr=errors, marker="o", capsize=3, linestyle="-" if not number else "--", label=name
        )
    axes.set(xlabel="turn", ylabel="right answers", ylim=(-0.02, 1.02))
    axes.legend()
    figure.savefig(file, dpi=150)
