"""How turns become token ids. What the model answered stays as it was drawn; nothing before it is written again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hyla.answers.protocol import TextDelta
from hyla.answers.registry import answer_format
from hyla.answers.tools import ToolUse
from hyla.checkpoints import Tokenizer
from hyla.errors import ConfigError, RequestError
from hyla.evals.multi_turn.script import Turn

QUESTION = {"role": "user", "content": "planted question"}
MARK = "planted answer"
TOOL = "planted result"
RESULT = "Result of a tool: "
"""Before a result that is told as the user's text."""
PROMPT_TAIL = 64
"""Tokens in which a prompt that opens reasoning does so."""


class Form(Protocol):
    """A model's way to write conversations.

    name: for the report. gap: what stands before an answer's first word. stop: texts that end an answer.
    """

    name: str
    gap: str
    stop: tuple[str, ...]

    def first(self, turn: Turn) -> list[int]:
        """The prompt of the first turn."""
        ...

    def closed(self, ids: Sequence[int], is_whole: bool) -> list[int]:
        """An answer as it stays in the conversation. is_whole: the model ended it."""
        ...

    def later(self, turn: Turn) -> list[int]:
        """What comes behind a closed answer, up to where the next one begins."""
        ...

    def text(self, prompt_ids: Sequence[int], drawn: str) -> str:
        """What an answer says, of the text that was drawn behind a prompt: without the reasoning before it."""
        ...


def as_user_text(turn: Turn) -> str:
    """A turn whose tool's result, if any, stands at its beginning."""
    return turn.user if turn.tool is None else f"{RESULT}{turn.tool}\n\n{turn.user}"


def form_of(tokenizer: Tokenizer, eos_ids: Sequence[int]) -> Form:
    """The chat template's where there is one. Raises ConfigError for a template that cannot be continued."""
    return Plain(tokenizer, eos_ids) if tokenizer.chat_template is None else Templated(tokenizer, eos_ids)


class Plain:
    """For models without a chat template: "User: ...", "Assistant: ...", a paragraph each."""

    name = 'a plain form ("User: ...", "Assistant: ..."): the model has no chat template'
    gap = " "
    stop: tuple[str, ...] = ("\n",)

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int]):
        self._encode, self._decode, self._eos_ids = tokenizer.encode, tokenizer.decode, eos_ids

    def first(self, turn: Turn) -> list[int]:
        return self._encode(f"User: {as_user_text(turn)}\n\nAssistant:")

    def closed(self, ids: Sequence[int], is_whole: bool) -> list[int]:
        """Without what ended it: line breaks, and the token behind which another text would begin."""
        kept = [one for one in ids if one not in self._eos_ids]
        while kept and not self._decode(kept[-1:]).strip():
            kept.pop()
        return kept

    def later(self, turn: Turn) -> list[int]:
        return self._encode(f"\n\nUser: {as_user_text(turn)}\n\nAssistant:", add_special_tokens=False)

    def text(self, prompt_ids: Sequence[int], drawn: str) -> str:
        return drawn


class Templated:
    """A chat template's form: it is shown a short conversation of our own, and what it writes behind an answer's end is
    what stands between two turns.

    has_tools: whether it shows messages of the role "tool"; else a tool's result is the user's text.
    """

    gap = ""
    stop: tuple[str, ...] = ()

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int]):
        self.tokenizer = tokenizer
        found = {tokenizer.decode([one], skip_special_tokens=False): one for one in eos_ids}
        self._ends = {text: one for text, one in found.items() if text}
        self.has_tools = self._shows_results()
        self._check()
        assert tokenizer.chat_template is not None
        self._answers = answer_format(tokenizer.chat_template.source)
        results = 'of the role "tool"' if self.has_tools else "told as the user's text"
        self.name = f"the model's chat template, results of tools {results}"

    def first(self, turn: Turn) -> list[int]:
        return self.tokenizer.encode(self._rendered(self._messages(turn)), add_special_tokens=False)

    def closed(self, ids: Sequence[int], is_whole: bool) -> list[int]:
        """With the template's end token where the model did not come to one."""
        return list(ids) if is_whole else [*ids, self._ends[self._added([QUESTION])[0]]]

    def later(self, turn: Turn) -> list[int]:
        end, added = self._added(self._messages(turn))
        # With the end token before them, so that a tokenizer does not take them for the beginning of a text.
        ids = self.tokenizer.encode(end + added, add_special_tokens=False)
        if ids[:1] != [self._ends[end]]:
            raise ConfigError(f"the model's tokenizer does not read {end!r} as the token {self._ends[end]}")
        return ids[1:]

    def text(self, prompt_ids: Sequence[int], drawn: str) -> str:
        tail = self.tokenizer.decode(prompt_ids[-PROMPT_TAIL:], skip_special_tokens=False)
        parser = self._answers.reading(tail, ToolUse()).parser()
        return "".join(one.text for one in (*parser.push(drawn), *parser.finish()) if isinstance(one, TextDelta))

    def _messages(self, turn: Turn) -> list[dict]:
        if turn.tool is None or not self.has_tools:
            return [{"role": "user", "content": as_user_text(turn)}]
        return [{"role": "tool", "content": turn.tool}, {"role": "user", "content": turn.user}]

    def _rendered(self, messages: list[dict]) -> str:
        # A name that templates of models that reason know: answers here are short.
        return self.tokenizer.render_chat(messages, add_generation_prompt=True, enable_thinking=False)

    def _added(self, messages: list[dict], before: Sequence[dict] = ()) -> tuple[str, str]:
        """The template's end token behind an answer, and its text behind that."""
        answer = {"role": "assistant", "content": MARK}
        text = self._rendered([*before, QUESTION, answer, *messages])
        place = text.rfind(MARK)
        found = [(at, end) for end in self._ends if (at := text.find(end, place)) >= 0] if place >= 0 else []
        if not found:
            ends = ", ".join(map(repr, self._ends)) or "none"
            raise ConfigError(
                f"the model's chat template writes no token behind an answer that ends the model's text ({ends}), so "
                "a conversation cannot go on behind an answer as it was drawn"
            )
        at, end = min(found)
        return end, text[at + len(end) :]

    def _shows_results(self) -> bool:
        try:
            return TOOL in self._added([{"role": "tool", "content": TOOL}, QUESTION])[1]
        except RequestError:
            return False

    def _check(self) -> None:
        """Raise ConfigError for a template that writes something else later in a conversation."""
        plant = [QUESTION, {"role": "assistant", "content": "planted before"}]
        if self._added([QUESTION]) != self._added([QUESTION], plant):
            raise ConfigError("the model's chat template writes turns in another way later in a conversation")
