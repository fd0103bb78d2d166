"""From messages to a prompt: what chat templates expect, and how the answer's text is to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyla.answers.tools import ToolUse
from hyla.checkpoints import Tokenizer
from hyla.checkpoints.templates.values import Arguments
from hyla.engine.requests.formats import depth_of
from hyla.errors import RequestError
from hyla.server.reading.content import text_of
from hyla.server.reading.counting import JsonCounter
from hyla.server.reading.instructions import arranged
from hyla.server.reading.skipped import Skipped

INVALID = "invalid_json"
"""The one name in an object that stands for arguments which are none."""
MOST_DEPTH = 64
"""Nested lists and objects of arguments; `depth_of` counts no further."""
LONG_ARGUMENTS = 1 << 14
"""Characters from which on it is counted, before they are read, how much is in arguments."""
MOST_VALUES = 1 << 15
"""Values in arguments; what holds more stays text."""
RESERVED = frozenset({"self", "messages", "tools", "documents", "add_generation_prompt"})
"""Template names that come from the request's own fields, or mean something to Jinja itself."""


@dataclass(frozen=True)
class Conversation:
    """One prompt, independent of the API that it came through."""

    messages: Sequence[Mapping[str, Any]]
    """In OpenAI's form."""
    tools: ToolUse = field(default_factory=ToolUse)
    template_names: Mapping[str, Any] = field(default_factory=dict)
    """More names for the chat template."""
    documents: Sequence[Mapping] | None = None
    continues_final_message: bool = False
    """The answer goes on with the last message's text."""
    adds_generation_prompt: bool = True
    skipped: Skipped = field(default_factory=Skipped)
    """What of the request the model is not shown."""

    @property
    def may_think(self) -> bool:
        """Whether the request lets the model reason first, under either name that templates have for it."""
        return all(self.template_names.get(name) is not False for name in ("enable_thinking", "thinking"))

    def final_text(self) -> str:
        """The last message's text when the answer goes on with it."""
        if not self.continues_final_message:
            return ""
        return text_of(self.messages[-1].get("content"), f"messages[{len(self.messages) - 1}].content").strip()

    def render(self, tokenizer: Tokenizer) -> str:
        """The prompt's text. Raises RequestError when the template refuses it."""
        taken = RESERVED & set(self.template_names)
        if taken:
            name = min(taken)
            raise RequestError(
                f"chat_template_kwargs may not set {name}, which is not the client's; leave it out",
                "chat_template_kwargs",
            )
        messages = [message_for_template(message, f"messages[{n}]") for n, message in enumerate(self.messages)]
        if tokenizer.chat_template is not None:
            messages = arranged(messages, tokenizer.chat_template)
        names = dict(self.template_names)
        if self.documents is not None:
            names["documents"] = list(self.documents)
        text = tokenizer.render_chat(
            messages,
            tools=self.tools.for_template(),
            add_generation_prompt=self.adds_generation_prompt and not self.continues_final_message,
            **names,
        )
        return _cut_after_final(text, messages) if self.continues_final_message else text


def message_for_template(message: Mapping[str, Any], where: str = "message") -> dict[str, Any]:
    """Content as one text, arguments as objects, reasoning under the name that templates read.

    where: its place in the request, for people.
    """
    made = {name: value for name, value in message.items() if value is not None}
    made["content"] = text_of(message.get("content"), f"{where}.content")
    reasoning = made.get("reasoning_content", made.get("reasoning"))
    if isinstance(reasoning, str):
        made["reasoning_content"] = reasoning
    if "tool_calls" in made:
        made["tool_calls"] = [
            _call_for_template(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(made["tool_calls"])
        ]
    return made


def _call_for_template(call: Any, where: str) -> dict:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} needs function.name; add it", "messages")
    return {**call, "function": {**function, "arguments": arguments_for_template(function.get("arguments"))}}


def arguments_for_template(given: Any) -> Arguments:
    """A call's arguments as an object, whatever the model wrote: cut short, a list, a number."""
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    value = read_arguments(text)
    if value is None:
        return Arguments({INVALID: text}, text)
    written = value.get(INVALID) if len(value) == 1 else None
    return Arguments(value, written if isinstance(written, str) else None)


def read_arguments(text: str) -> dict[str, Any] | None:
    """The object that JSON text is; None for anything else, and for what no prompt or reader could hold."""
    if len(text) > LONG_ARGUMENTS:
        counter = JsonCounter()
        counter.add(text.encode("utf-8", "surrogatepass"))
        if counter.num_values > MOST_VALUES:
            return None
    try:
        value = json.loads(text) if text.strip() else {}
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    if value is None:
        return {}
    return value if isinstance(value, dict) and depth_of(value) <= MOST_DEPTH else None


def _cut_after_final(text: str, messages: Sequence[Mapping]) -> str:
    """The prompt up to the end of the last message's own text."""
    final = messages[-1]["content"].strip()
    place = text.rfind(final) if final else -1
    if place < 0:
        raise RequestError(
            "continue_final_message needs a last message whose text the chat template shows; give it some content",
            "continue_final_message",
        )
    return text[: place + len(final)]
