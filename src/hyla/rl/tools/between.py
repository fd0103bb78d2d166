"""What stands between two turns: the token ids that a chat template adds behind calls, with their results.

The ids that the model drew stay as they are, and nothing before them is written again. So the template is shown a short
conversation of our own: one question, an answer with the same calls (all arguments left out but a mark), the results.
What it writes from the end of that answer on, up to where the next one begins, is what is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from hyla.answers.protocol import Parser
from hyla.answers.registry import AnswerFormat, answer_format
from hyla.answers.tools import ToolUse
from hyla.checkpoints import Tokenizer
from hyla.checkpoints.templates.values import Arguments
from hyla.errors import ConfigError, HylaError
from hyla.models.config import ModelConfig
from hyla.rl.tools.reading import Call, calls_in

QUESTION = {"role": "user", "content": "planted question"}
MARK = "planted-mark"
"""An argument of the last call: behind it the answer ends with the template's own end token."""


class Between:
    """One model's template with one set of tools.

    name: the model's, in errors. Raises ConfigError for a template that has no calls that are known here, or cannot be
    continued: found by planted conversations, before anything is sampled.
    """

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, use: ToolUse, name: str):
        self.tokenizer, self.use, self.name = tokenizer, use, name
        self.tools = use.for_template()
        self.form = _form(tokenizer, config, name)
        ids = dict.fromkeys([*config.eos_token_ids, tokenizer.eos_token_id])
        texts = {tokenizer.backend.id_to_token(one): one for one in ids if one is not None}
        self._ends = {text: one for text, one in texts.items() if text}
        try:
            self._check()
        except HylaError as error:
            raise ConfigError(
                f"the chat template of {name} cannot be used with rl.rollout.tools: {error}; use a model or a template "
                "that has tools, or leave the tools out"
            ) from None

    @property
    def hides_special_tokens(self) -> bool:
        """Whether the engine may leave special tokens out of a turn's text: none of them marks calls."""
        return self.form.reading("", self.use).params.get("skip_special_tokens", True)

    def parser(self, prompt: str) -> Parser:
        """Reads one turn. prompt: the end of what it stands behind."""
        return self.form.reading(prompt, self.use).parser()

    def has_mark(self, text: str) -> bool:
        """Whether something in a text looks like a call."""
        assert self.form.tools is not None
        return any(marker in text for marker in self.form.tools.markers)

    def prompt_ids(self, messages: Sequence[dict]) -> list[int]:
        """Of a conversation that the model answers. Raises RequestError where the template refuses it."""
        return self.tokenizer.encode_chat(list(messages), add_generation_prompt=True, tools=self.tools)

    def ids(self, calls: Sequence[Call], results: Sequence[str]) -> tuple[int, ...]:
        """What comes behind the token that ended a turn with these calls, up to the next turn's first token.

        Raises HylaError where the template does not write it.
        """
        return self._encoded(*self._added([QUESTION], calls, results))

    def _added(self, before: list[dict], calls: Sequence[Call], results: Sequence[str]) -> tuple[str, str]:
        """The template's end token, and its text behind that."""
        text = self._rendered([*before, *self._turn(calls, results)])
        at, end = self._end_of(text, 1 + sum(message["role"] == "assistant" for message in before))
        return end, text[at + len(end) :]

    def _rendered(self, messages: list[dict]) -> str:
        return self.tokenizer.render_chat(messages, tools=self.tools, add_generation_prompt=True)

    def _turn(self, calls: Sequence[Call], results: Sequence[str]) -> list[dict]:
        """An answer with these calls, and its results; what the model itself made up is not shown to the template."""
        answer: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
        told = []
        for n, (call, text) in enumerate(zip(calls, results, strict=True)):
            name = call.name if call.name in self.use.names else self.use.names[0]
            arguments = Arguments({"planted": MARK} if n == len(calls) - 1 else {})
            function = {"name": name, "arguments": arguments}
            answer["tool_calls"].append({"id": call.call_id, "type": "function", "function": function})
            told.append({"role": "tool", "tool_call_id": call.call_id, "name": name, "content": text})
        return [answer, *told]

    def _end_of(self, text: str, number: int) -> tuple[int, str]:
        """Where the end token of the answer stands that has mark `number`, and its text."""
        place = -1
        for _ in range(number):
            place = text.find(MARK, place + 1)
            if place < 0:
                raise ConfigError("it does not show an answer's calls")
        found = [(at, end) for end in self._ends if (at := text.find(end, place)) >= 0]
        if not found:
            ends = ", ".join(map(repr, self._ends)) or "none"
            raise ConfigError(f"behind an answer with a call it writes no token that ends the model's text ({ends})")
        return min(found)

    def _encoded(self, end: str, added: str) -> tuple[int, ...]:
        """With the end token before them, so that a tokenizer does not take them for the beginning of a text."""
        ids = self.tokenizer.encode(end + added, add_special_tokens=False)
        if not ids or ids[0] != self._ends[end]:
            raise ConfigError(f"its tokenizer does not read {end!r} as the token {self._ends[end]}")
        return tuple(ids[1:])

    # Before the run

    def _check(self) -> None:
        """Raise ConfigError for what would only be found in the middle of a run, or not at all."""
        names = self.use.names
        if not all(name in self._rendered([QUESTION]) for name in names):
            raise ConfigError("it does not tell the model of the tools")
        calls = [Call(f"functions.{name}:{n}", name, "{}") for n, name in enumerate([names[0], names[-1]])]
        for chosen in (calls[:1], calls):
            given = [f"planted result {n}" for n in range(len(chosen))]
            end, added = self._added([QUESTION], chosen, given)
            self._encoded(end, added)
            if not all(text in added for text in given):
                raise ConfigError("it leaves results of tools out")
            if (end, added) != self._added([QUESTION, *self._turn(calls, ["", ""])], chosen, given):
                raise ConfigError("it writes results in another way later in a conversation")
        self._check_calls(calls)

    def _check_calls(self, calls: list[Call]) -> None:
        """The calls that the template writes must be those that are read."""
        form = self.form.tools
        assert form is not None
        text = self._rendered([QUESTION, *self._turn(calls, ["", ""])])
        answer = text[text.index(QUESTION["content"]) : self._end_of(text, 1)[0]]
        if [call.name for call in calls_in(form.make(self.use), answer).calls] != [call.name for call in calls]:
            raise ConfigError(f"its calls are not those that are read as {form.name}")


def _form(tokenizer: Tokenizer, config: ModelConfig, name: str) -> AnswerFormat:
    """How the model's answers are read, as the server finds it."""
    template = tokenizer.chat_template
    if template is None:
        raise ConfigError(f"{name} has no chat template, and rl.rollout.tools needs one; leave the tools out")
    template.start()
    found = answer_format(
        template.source,
        model_type=config.family,
        special=tokenizer.special_texts,
        encode=partial(tokenizer.encode, add_special_tokens=False),
    )
    if found.tools is None:
        raise ConfigError(
            f"the chat template of {name} has no format of tool calls that is known here, and rl.rollout.tools needs "
            "one; use a model that has, or leave the tools out"
        )
    return found
