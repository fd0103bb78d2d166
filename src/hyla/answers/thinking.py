"""Reasoning before the answer, between two tags. Many templates write the first tag into the prompt themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyla.answers.early_calls import EarlyCalls, Verdict
from hyla.answers.protocol import Delta, Parser, ReasoningDelta, TextDelta
from hyla.answers.scanning import Scanner, held_length


@dataclass(frozen=True)
class ReasoningFormat:
    """How a model's reasoning looks."""

    name: str
    opening: str
    closing: str
    signs: tuple[str, ...]
    """The chat template holds one of these."""

    def is_opened_by(self, prompt: str) -> bool:
        """Whether the answer to the prompt starts inside the reasoning."""
        return prompt.rstrip().endswith(self.opening)


THINK = ReasoningFormat("think", "<think>", "</think>", ("<think>", "</think>"))
"""Qwen, Kimi, DeepSeek, MiniMax, Ling and Ring, Nemotron, MiMo."""

FORMATS = (THINK,)


class ThinkingParser(Scanner):
    """Gives what stands between the tags as reasoning and the rest to `inner`.

    is_open: the prompt has written the opening. calls: tells calls in the reasoning from mentions. A whole one goes to
    `inner`, and the reasoning goes on behind it; one of special tokens ends the reasoning, and a closing tag that comes
    later all the same is dropped. Space around the tags belongs to the format.
    """

    def __init__(self, form: ReasoningFormat, inner: Parser, *, is_open: bool, calls: EarlyCalls | None = None):
        super().__init__()
        self.form, self.inner, self.calls = form, inner, calls
        self._space = ""
        self._has_begun = False
        self._answer = _Answer(form.closing)
        if is_open:
            self._state = self._in_reasoning

    def _start(self) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(self.form.opening):
            self._buffer = text[len(self.form.opening) :]
            self._state = self._in_reasoning
            return True
        if self.form.opening.startswith(text) and not self._is_over:
            return False
        self._state = self._in_answer
        return True

    def _in_reasoning(self) -> bool:
        openings = self.calls.openings if self.calls is not None else ()
        before, found = self._until(self.form.closing, *openings)
        self._reason(before)
        if found is None:
            return False
        if found == self.form.closing:
            self._state = self._after_reasoning
            return True
        return self._at_opening(found)

    def _reason(self, text: str) -> None:
        text = self._space + text
        if not self._has_begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._has_begun = True
            self._out.append(ReasoningDelta(shown))

    def _at_opening(self, opening: str) -> bool:
        """What may be a call was found."""
        if self.calls is None:
            return False
        found = self.calls.look(opening, self._buffer, self.form.closing, is_over=self._is_over)
        if found is Verdict.MENTION:
            self._reason(opening)
            return True
        self._buffer = opening + self._buffer
        if found is Verdict.UNKNOWN:
            return False
        if found is Verdict.BEGINS:
            self._answer.drops_closing = True
            self._state = self._after_reasoning
            return True
        size = len(opening) + int(found)
        call, self._buffer = self._buffer[:size], self._buffer[size:]
        self._out += self.inner.push(call)
        return True

    def _after_reasoning(self) -> bool:
        self._buffer = self._buffer.lstrip()
        if not self._buffer:
            return False
        self._state = self._in_answer
        return True

    def _in_answer(self) -> bool:
        text, self._buffer = self._buffer, ""
        self._out += self._answer.push(self.inner.push(text))
        return False

    def _ended(self):
        self._out += self._answer.push(self.inner.finish())
        self._out += self._answer.finish()


class _Answer:
    """The answer's pieces without a tag that closes reasoning which has ended before."""

    def __init__(self, closing: str):
        self.closing, self.drops_closing = closing, False
        self._held = ""
        """Text that may be the start of the tag, and the space before it."""
        self._skips_space = False

    def push(self, deltas: Sequence[Delta]) -> Sequence[Delta]:
        if not (self.drops_closing or self._skips_space):
            return deltas
        made: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, TextDelta):
                made += self._text(delta.text)
            else:
                made += [*self.finish(), delta]
        return made

    def _text(self, text: str) -> list[Delta]:
        shown, after = "", text
        if self.drops_closing:
            before, found, after = (self._held + text).partition(self.closing)
            certain = before if found else before[: len(before) - held_length(before, [self.closing])]
            shown = certain.rstrip()
            self._held = "" if found else before[len(shown) :]
            self._skips_space, self.drops_closing = bool(found), not found
        if self._skips_space:
            after = after.lstrip()
            self._skips_space = not after
        return [TextDelta(part) for part in (shown, after) if part]

    def finish(self) -> list[Delta]:
        """Give out what was held back."""
        held, self._held = self._held, ""
        return [TextDelta(held)] if held else []
