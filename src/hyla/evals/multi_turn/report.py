"""Scores of conversations as tables, a page and a plot: by number of turns, by turn, by kind of question, by age."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from hyla.evals.costs import COST_TITLES, Price, cost_cells
from hyla.evals.multi_turn.run import Answer, Conversation
from hyla.evals.multi_turn.score import OUTCOMES
from hyla.evals.multi_turn.script import KINDS
from hyla.evals.pictures import figure, finish, legend_below, save, style
from hyla.evals.tables import as_markdown
from hyla.train.intervals import interval_of_groups

Results = Mapping[str, Sequence[Conversation]]
"""By model's name, the same conversations in the same order; the model first, then its twin, if any."""
Key = Callable[[Conversation, Answer], Hashable]
Share = tuple[float, float, float, int]
"""A mean, its interval, and how many values it is of."""

AGES = ((0, "in the same turn"), (1, "1 turn before"), (3, "2 to 3 turns before"), (1 << 30, "4 turns before or more"))

LAST = "always the last number"
"""Of a reader without memory, who says the number that was said last before the question."""

KINDS_AND_AGES: dict[Hashable, str] = {
    (kind, is_new): f"{kind}, said in {'the same turn' if is_new else 'a turn before'}"
    for kind in KINDS
    for is_new in (True, False)
}


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
    has_last = all(answer.last for line in first for answer in line.answers)
    rows = [[title, "questions", *names, *["difference"] * len(others), *([LAST] if has_last else [])]]
    for value, shown in values.items():
        found = [share(lines, key, value) for lines in results.values()]
        if found[0] is None:
            continue
        cells = [_shown(one) for one in found if one is not None]
        differences = [_shown(share(first, key, value, other), "+") for other in others]
        asked = [answer for line in first for answer in line.answers if key(line, answer) == value]
        last = f"{sum(answer.last == answer.wanted for answer in asked) / len(asked):.1%}"
        rows.append([shown, str(found[0][3]), *cells, *differences, *([last] if has_last else [])])
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
        table(results, "kind and age", lambda line, answer: (answer.kind, answer.age == 0), KINDS_AND_AGES),
        table(results, "the number was said", lambda line, answer: _age(answer.age), dict(AGES)),
    ]


def _age(turns: int) -> int:
    return next(most for most, _ in AGES if turns <= most)


def markdown(results: Results, forms: Mapping[str, str], prices: Mapping[str, Price | None]) -> str:
    """The report as a page. forms: how each model's conversations were written. prices: of each model's answers."""
    shown = "\n\n".join(map(as_markdown, tables(results)))
    told = "\n".join(f"- {name}: {forms[name]}. {_whole(lines)}" for name, lines in results.items())
    difference = " Differences are of the same questions." if len(results) > 1 else ""
    last = f' "{LAST[:1].upper()}{LAST[1:]}" is what a reader without memory has right.' if LAST in shown else ""
    price = next((one for one in prices.values() if one is not None), None)
    priced = "" if price is None else f" Price: at {price.told}."
    return f"""# Conversations of many turns

{shown}

Share of questions whose answer has the wanted number and no other one of the conversation's, in brackets the 95% \
bootstrap interval over conversations.{difference}{last}

{told}

{as_markdown(outcomes(results))}

## What a right answer costs

{as_markdown(cost_table(results, prices))}

What all answers took, divided by those that were right. A prompt is all that was said so far. Seconds are this \
machine's, of computing; FLOPs by the cost model, without what came from the prefix cache.{priced}
"""


def cost_table(results: Results, prices: Mapping[str, Price | None]) -> list[list[str]]:
    """A row for each model and number of turns: what all answers took for each that was right."""
    has_price = any(price is not None for price in prices.values())
    rows = [["model", "turns", "right", *COST_TITLES, *(["price"] if has_price else [])]]
    for name, lines in results.items():
        for turns in sorted({line.turns for line in lines}):
            answers = [answer for line in lines if line.turns == turns for answer in line.answers]
            right = sum(answer.is_right for answer in answers)
            rows.append([name, str(turns), f"{right} of {len(answers)}", *cost_cells(answers, right, prices[name])])
    return rows


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


def _whole(lines: Sequence[Conversation]) -> str:
    whole = sum(all(answer.is_right for answer in line.answers) for line in lines)
    return f"{whole} of {len(lines)} conversations had right answers alone."


def plot(results: Results, file: Path) -> None:
    """The share of right answers by turn, with intervals, as a PNG."""
    from matplotlib.ticker import MaxNLocator

    picture = figure(4)
    axes = picture.subplots()
    for number, (name, lines) in enumerate(results.items()):
        turns = range(1, max(line.turns for line in lines) + 1)
        found = [(turn, one) for turn in turns if (one := share(lines, lambda line, answer: answer.turn, turn))]
        means = [mean for _, (mean, *_) in found]
        errors = [
            [max(0.0, mean - low) for _, (mean, low, _, _) in found],
            [max(0.0, high - mean) for _, (mean, _, high, _) in found],
        ]
        places = [turn + 0.06 * number for turn, _ in found]
        axes.errorbar(places, means, yerr=errors, capsize=3, label=name, **style(number))
    axes.set(xlabel="turn", ylabel="right answers", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes)
    legend_below(picture, axes)
    save(picture, file)
