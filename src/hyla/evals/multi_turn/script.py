"""What a user says in a conversation: facts in plain sentences, and in each turn one question about turns before."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["direct", "overwritten", "multi-hop", "tool"]
KINDS: tuple[Kind, ...] = ("direct", "overwritten", "multi-hop", "tool")
"""Of questions: the number was said once; it was said anew; somebody shares another's; a tool's result said it."""

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Karen", "Leo", "Maria", "Noah",
    "Olivia", "Paul", "Rosa", "Simon", "Tina", "Victor", "Wanda", "Adam", "Bella", "Carl", "Diana", "Eric", "Fiona",
    "Gavin", "Helen", "Ivan", "Julia", "Kevin", "Laura", "Martin", "Nina", "Oscar", "Petra", "Robert", "Sara", "Tom",
)  # fmt: skip
THINGS = ("locker", "room", "desk", "parking space", "seat", "badge")
NUMBERS = range(1000, 10_000)
STATEMENTS = ("new", "new", "overwrite", "link")
"""Each as likely as another, where it can be said."""

RULES = (
    "I will tell you the numbers of some people's {thing}s. A number can change: what was said last counts. Whoever "
    "shares a {thing} with somebody has that person's number, also when it changes later. Results of tools may tell "
    "numbers too."
)


@dataclass(frozen=True)
class Question:
    """What is asked in a turn.

    text: the question. begun: how its answer may begin. wanted: the number. turn: from 1. age: turns since the number
    was said; 0: in this turn. outdated: numbers that were right before. numbers: all that were said so far.
    """

    text: str
    begun: str
    wanted: str
    turn: int
    age: int
    kind: Kind
    outdated: tuple[str, ...]
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Turn:
    """user: what the user says, the question at its end. tool: a tool's result that comes before, or None."""

    user: str
    tool: str | None
    question: Question


@dataclass(frozen=True)
class Plan:
    """How conversations are drawn. facts: statements of a turn. hops: most people from one who shares to the one whose
    number it is. filler_tokens: most tokens of a tool's result around what it tells."""

    facts: int = 2
    hops: int = 2
    filler_tokens: int = 60


def script(
    turns: int, number: int, seed: int, plan: Plan, words: Sequence[str], count: Callable[[str], int]
) -> list[Turn]:
    """A conversation: a function of its arguments. What is said and asked does not depend on the filler, so models with
    other tokenizers are asked the same.

    words: running text for the fillers; those with digits are left out. count: tokens of a text.
    """
    facts = _Facts(random.Random(f"multi-turn facts {turns} {seed} {number}"), plan)
    filler = _Filler(random.Random(f"multi-turn fillers {turns} {seed} {number}"), words, count)
    return [facts.turn(at, filler) for at in range(1, turns + 1)]


@dataclass(frozen=True)
class _Fact:
    """What holds for a name: its number, or whose it shares."""

    number: str | None
    other: str | None
    turn: int
    is_tool: bool
    is_anew: bool


class _Facts:
    def __init__(self, draw: random.Random, plan: Plan):
        self._draw, self.plan = draw, plan
        self._unused = draw.sample(NAMES, len(NAMES))
        self._numbers = iter(draw.sample(NUMBERS, len(NUMBERS)))
        self.thing = draw.choice(THINGS)
        self._facts: dict[str, _Fact] = {}
        self._had: dict[str, list[str]] = {}
        """The numbers that each name had, one after the other."""
        self._said: list[str] = []

    def turn(self, at: int, filler: _Filler) -> Turn:
        """The next turn."""
        before = sorted(self._facts)
        tool = None
        if at > 1:
            is_fact = self._draw.random() < 0.5
            told = self._set(self._draw.choice(["new", "overwrite"]), at, is_tool=True) if is_fact else None
            tool = filler.around(told, self.plan.filler_tokens)
        said = [self._statement(at) for _ in range(self.plan.facts)]
        question = self._question(before or sorted(self._facts), at)
        rules = [RULES.format(thing=self.thing)] if at == 1 else []
        return Turn(" ".join([*rules, *said, question.text]), tool, question)

    def _statement(self, at: int) -> str:
        what = self._draw.choice(STATEMENTS)
        return (self._link(at) if what == "link" else None) or self._set(what, at, is_tool=False)

    def _set(self, what: str, at: int, *, is_tool: bool) -> str:
        is_new = bool(self._unused) and (what != "overwrite" or not self._facts)
        name = self._unused.pop() if is_new else self._draw.choice(sorted(self._facts))
        number = str(next(self._numbers))
        self._said.append(number)
        self._tell(name, _Fact(number, None, at, is_tool, name in self._facts))
        return f"{name}'s {self.thing} is {'' if is_new else 'now '}number {number}."

    def _link(self, at: int) -> str | None:
        """Whose number nobody shares shares another's; None where that cannot be."""
        shared = {fact.other for fact in self._facts.values()}
        is_new = bool(self._unused) and self._draw.random() < 0.5
        free = [name for name in sorted(self._facts) if name not in shared]
        if not is_new and not free:
            return None
        name = self._unused[-1] if is_new else self._draw.choice(free)
        others = [one for one in sorted(self._facts) if one != name and self._followed(one)[1] < self.plan.hops]
        if not others:
            return None
        if is_new:
            self._unused.pop()
        other = self._draw.choice(others)
        self._tell(name, _Fact(None, other, at, False, name in self._facts))
        return f"{name} {'shares' if is_new else 'now shares'} {other}'s {self.thing}."

    def _tell(self, name: str, fact: _Fact) -> None:
        self._facts[name] = fact
        for one in self._facts:
            number, had = self._followed(one)[0].number, self._had.setdefault(one, [])
            assert number is not None
            if had[-1:] != [number]:
                had.append(number)

    def _followed(self, name: str) -> tuple[_Fact, int]:
        """(the fact with the number, people up to there)."""
        fact, hops = self._facts[name], 0
        while fact.other is not None:
            fact, hops = self._facts[fact.other], hops + 1
        return fact, hops

    def _kind(self, name: str) -> Kind:
        fact = self._facts[name]
        if fact.other is not None:
            return "multi-hop"
        if fact.is_tool:
            return "tool"
        return "overwritten" if fact.is_anew else "direct"

    def _question(self, names: Sequence[str], at: int) -> Question:
        """About one of the names: of a random kind that they have, a random one."""
        of_kind: dict[Kind, list[str]] = {kind: [name for name in names if self._kind(name) == kind] for kind in KINDS}
        kind: Kind = self._draw.choice([kind for kind in KINDS if of_kind[kind]])
        name = self._draw.choice(of_kind[kind])
        last = self._followed(name)[0]
        assert last.number is not None
        outdated = tuple(number for number in self._had[name] if number != last.number)
        asked = f"the number of {name}'s {self.thing}"
        text, begun = f"What is {asked}? Answer with the number alone.", f"T{asked[1:]} is"
        return Question(text, begun, last.number, at, at - last.turn, kind, outdated, tuple(self._said))


class _Filler:
    def __init__(self, draw: random.Random, words: Sequence[str], count: Callable[[str], int]):
        self._draw, self._count = draw, count
        self._words = [word for word in words if not any(letter.isdigit() for letter in word)]

    def around(self, told: str | None, tokens: int) -> str | None:
        """Running text of at most so many tokens, with what is told somewhere in it; None where there is neither."""
        words = self._text(tokens)
        place = self._draw.randrange(len(words) + 1)
        return " ".join([*words[:place], *([told] if told else []), *words[place:]]) or None

    def _text(self, tokens: int) -> list[str]:
        first, most = self._draw.randrange(len(self._words)), tokens
        while most:
            found = [self._words[(first + n) % len(self._words)] for n in range(most)]
            taken = self._count(" ".join(found))
            if taken <= tokens:
                return found
            most = min(most - 1, most * tokens // taken)
        return []
