"""Two models side by side: ratios of their figures, and the contexts from which one is cheaper."""

from __future__ import annotations

from collections.abc import Callable

from hyla.cost.call import decode, prefill
from hyla.cost.figures import Question, context_figures, serving
from hyla.cost.inventory import element_bytes
from hyla.cost.memory import model_memory
from hyla.cost.target import Target
from hyla.cost.work import step_work

LONGEST_CONTEXT = 1 << 24
"""Where the search for a crossover ends."""
POINTS_PER_OCTAVE = 4
COMPARED = (
    "cache_bytes",
    "resident_cache_bytes",
    "prefill_flops",
    "decode_flops",
    "decode_bytes",
    "first_token_seconds",
    "token_seconds",
    "tokens_per_second_at_largest_batch",
    "price_per_million_tokens",
)


def comparison(first: Target, second: Target, question: Question) -> dict:
    """Second over first at every context, and the contexts from which the first is cheaper."""
    question = question.resolved()
    ratios = []
    for context in question.contexts:
        one, other = (context_figures(target, question, context) for target in (first, second))
        row = {"context_tokens": context}
        for name in COMPARED:
            if one.get(name) and other.get(name):
                row[name] = other[name] / one[name]
        if one.get("token_seconds_at_largest_batch") and other.get("token_seconds_at_largest_batch"):
            row["batch"] = one["largest_batch"] / other["largest_batch"]
        ratios.append(row)
    return {
        "first": first.name,
        "second": second.name,
        "second_over_first": ratios,
        "first_is_cheaper_from_tokens": crossovers(first, second, question),
    }


def crossovers(first: Target, second: Target, question: Question) -> dict[str, int | None]:
    """By figure: the context from which `first` costs less than `second`; None: never."""
    question = question.resolved()
    size = element_bytes(question.weights)
    memories = [model_memory(target.config, size) for target in (first, second)]
    found = {"memory": crossover(*(memory.published_bytes for memory in memories))}
    if question.device is not None:
        on = [serving(target, question) for target in (first, second)]
        found["prefill"] = crossover(*(each.first_token_seconds for each in on))
        found["decode"] = crossover(*(each.token_seconds for each in on))
        return found

    def total(target: Target, make, figure: str):
        def of(context: int) -> float:
            works = step_work(
                target.config, make(context), weights=question.weights, arithmetic=question.chosen_arithmetic
            )
            return sum(getattr(work, figure) for work in works)

        return of

    found["prefill"] = crossover(*(total(target, prefill, "flops") for target in (first, second)))
    found["decode"] = crossover(*(total(target, decode, "nbytes") for target in (first, second)))
    return found


def crossover(first: Callable[[int], float], second: Callable[[int], float]) -> int | None:
    """The smallest context from which `first` costs less than `second` and goes on to: tokens, or None.

    Found between points of a logarithmic grid, of which the later ones all favour `first`.
    """
    grid = [round(2 ** (i / POINTS_PER_OCTAVE)) for i in range(LONGEST_CONTEXT.bit_length() * POINTS_PER_OCTAVE)]
    grid = sorted({point for point in grid if point <= LONGEST_CONTEXT})
    cheaper = [first(point) < second(point) for point in grid]
    if not cheaper[-1]:
        return None
    begins = max((i for i, is_cheaper in enumerate(cheaper) if not is_cheaper), default=-1) + 1
    if begins == 0:
        return grid[0]
    low, high = grid[begins - 1], grid[begins]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if first(middle) < second(middle) else (middle, high)
    return high
