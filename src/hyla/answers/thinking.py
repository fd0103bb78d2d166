"""Reasoning before the answer, between two tags. Many templates write the first tag into the prompt themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyla.answers.protocol import Parser, ReasoningDelta
from hyla.answers.scanning import Scanner


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

    is_open: the prompt has written the opening. also_ends_at: markers of the answer that end the reasoning, too.
    Space around the tags belongs to the format.
    """

    def __init__(self, form: ReasoningFormat, inner: Parser, *, is_open: bool, also_ends_at: Sequence[str] = ()):
        super().__init__()
        self.form, self.inner, self.also_ends_at = form, inner, tuple(also_ends_at)
        self._space = ""
        self._has_begun = False
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
        before, found = self._until(self.form.closing, *self.also_ends_at)
        text = self._space + before
        if not self._has_begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if shown:
            self._has_begun = True
            self._out.append(ReasoningDelta(shown))
        if found is None:
            return False
        if found != self.form.closing:
            self._buffer = found + self._buffer
        self._state = self._after_reasoning
        return True

    def _after_reasoning(self) -> bool:
        self._buffer = self._buffer.lstrip()
        if not self._buffer:
            return False
        self._state = self._in_answer
        return True

    def _in_answer(self) -> bool:
        text, self._buffer = self._buffer, ""
        self._out += self.inner.push(text)
        return False

    def _ended(self):
        self._out += self.inner.finish()
