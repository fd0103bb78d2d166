"""Conversations: what was said, said anew, linked and returned by tools in any turn before is asked for in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from hyla.evals.synthetic.conversations import ASK, IS, OPCODES, SET, TOOL, Conversations, Slot
from hyla.evals.synthetic.protocol import Examples, SyntheticTask
from hyla.models.config import Count

QuestionKind = Literal["direct", "overwritten", "multi-hop", "tool"]


@dataclass(frozen=True)
class Asked:
    """A question of a conversation.

    answer: the value's token.
    turn: of the question, from 1.
    age:  turns since the one in which the value was said; 0: in the same turn.
    kind: "multi-hop": the key is linked to another one; else "tool": a tool result said the value; else "overwritten":
          the key had a value or a link before; else "direct".
    """

    answer: int
    turn: int
    age: int
    kind: QuestionKind


class Turns(SyntheticTask):
    """A conversation of turns that all have the same plan; its questions are about turns before.

    A turn is `statements` statements and `tools` tool results (the first result behind the first statement, and so on;
    those that are left over at the end), then `questions` questions.

    - `<set> k v`: key k has value v from now on. k and v are random.
    - `<is> k j`: from now on k has whatever j has at the time of asking, until k is set or linked anew. A statement is
      one with a chance of 1/3 where it can be: j, the key of a random statement or result so far, is another key and
      at most `hops` - 1 links away from a value, and no key is linked to k (so no link ever closes a circle or makes
      a chain longer than `hops`). Else it is a set.
    - `<tool> f f f f <end>`: `tool_tokens` fillers, each time a new Markov chain (`fillers`); with a chance of 1/2 a
      random key and a random value stand in the places of two of them, which counts as `<set> k v`.
    - `<ask> k`: k is the key of a random statement or result of the turns before (in the first turn: of this one). At k
      the model has to say what it has now. The answer is not read next: the next token is the next question or turn.

    Tokens: 0 padding (what is left of the length), 1 set, 2 is, 3 tool, 4 end, 5 ask, then keys, values, fillers. A
    table may give `turns` in place of `length`; the length follows. The form is ours.
    """

    kind: Literal["turns"] = "turns"
    statements: Count = 3
    """Statements of a turn."""
    tools: Annotated[int, Field(ge=0)] = 1
    """Tool results of a turn."""
    tool_tokens: Annotated[int, Field(ge=2)] = 6
    """Tokens inside a tool result."""
    questions: Count = 2
    """Questions of a turn."""
    keys: Count = 32
    """Different keys; the fewer, the sooner one is overwritten."""
    values: Annotated[int, Field(ge=2)] = 32
    """Different values."""
    fillers: Annotated[int, Field(ge=2, lt=1 << 28)] = 32
    """Different fillers."""
    hops: Annotated[int, Field(ge=0)] = 2
    """Most links from a key to a value."""

    @model_validator(mode="before")
    @classmethod
    def _of_turns(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "turns" not in fields:
            return fields
        fields = dict(fields)
        turns = fields.pop("turns")
        if type(turns) is not int or turns < 1:
            raise ValueError(f"turns = {turns!r} must be a number, 1 or more")
        length = turns * cls(**{**fields, "length": 1 << 20}).turn_tokens
        if fields.setdefault("length", length) != length:
            raise ValueError(f"turns = {turns} are {length} tokens, not length = {fields['length']}; give one of both")
        return fields

    @model_validator(mode="after")
    def _fits(self):
        if self.turns < 1:
            raise ValueError(f"length = {self.length} has no turn; one takes {self.turn_tokens} tokens")
        return self

    @property
    def turn_tokens(self) -> int:
        """Tokens of a turn."""
        return 3 * self.statements + (self.tool_tokens + 2) * self.tools + 2 * self.questions

    @property
    def turns(self) -> int:
        """Turns of an example."""
        return self.length // self.turn_tokens

    @property
    def vocab_size(self) -> int:
        return OPCODES + self.keys + self.values + self.fillers

    @property
    def num_words(self) -> int:
        return self.turns * (4 * (self.statements + self.tools) + self.tool_tokens * self.tools + self.questions)

    @property
    def chance(self) -> float:
        return 1 / self.values

    def slots(self) -> list[Slot]:
        """Of a turn, in order."""
        found: list[Slot] = []
        for number in range(max(self.statements, self.tools)):
            if number < self.statements:
                found.append("statement")
            if number < self.tools:
                found.append("tool")
        found.extend("question" for _ in range(self.questions))
        return found

    def draw(self, words_NW: np.ndarray) -> Examples:
        return Conversations(self, words_NW).written()

    def solve(self, tokens: list[int]) -> dict[int, int]:
        return {place: asked.answer for place, asked in self.turn_of_question(tokens).items()}

    def turn_of_question(self, tokens: list[int]) -> dict[int, Asked]:
        """What is asked at each position that asks (its key's), from the tokens up to it alone. For scores by turn, by
        kind and by age."""
        told: dict[int, _Told] = {}
        found = {}
        for place, code in enumerate(tokens):
            what = tokens[place + 1 : place + 3]
            if code in (SET, IS) and len(what) == 2:
                told[what[0]] = _Told(what[1], place, code == IS, False, what[0] in told)
            elif code == TOOL:
                body = tokens[place + 1 : place + 1 + self.tool_tokens]
                pair = [token for token in body if token < OPCODES + self.keys + self.values]
                if len(pair) == 2:
                    told[pair[0]] = _Told(pair[1], place, False, True, pair[0] in told)
            elif code == ASK and what and what[0] in told:
                found[place + 1] = self._asked(told, what[0], place)
        return found

    def _asked(self, told: dict[int, _Told], key: int, place: int) -> Asked:
        last = first = told[key]
        while last.is_link:
            last = told[last.what]
        kind: QuestionKind = "direct"
        if first.is_link:
            kind = "multi-hop"
        elif first.is_tool:
            kind = "tool"
        elif first.was_told:
            kind = "overwritten"
        turn = place // self.turn_tokens
        return Asked(last.what, turn + 1, turn - last.place // self.turn_tokens, kind)


@dataclass(frozen=True)
class _Told:
    """What the oracle knows of a key: its value, or the key that it is linked to; where that was said, how, and whether
    something was said before."""

    what: int
    place: int
    is_link: bool
    is_tool: bool
    was_told: bool
