"""From messages to a prompt: what chat templates expect, and how the answer's text is to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyla.checkpoints import Tokenizer
from hyla.errors import RequestError
from hyla.server.body import short
from hyla.server.tools import ToolUse

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
"""Template names that come from the request's own fields."""


class Arguments(dict):
    """A call's arguments. Templates that expect an object find one, those that expect JSON text can join it to text."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


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

    @property
    def may_think(self) -> bool:
        """Whether the request lets the model reason first, under either name that templates have for it."""
        return all(self.template_names.get(name) is not False for name in ("enable_thinking", "thinking"))

    def final_text(self) -> str:
        """The last message's text when the answer goes on with it."""
        return text_of(self.messages[-1].get("content")).strip() if self.continues_final_message else ""

    def render(self, tokenizer: Tokenizer) -> str:
        """The prompt's text. Raises RequestError when the template refuses it."""
        taken = RESERVED & set(self.template_names)
        if taken:
            name = min(taken)
            raise RequestError(
                f"chat_template_kwargs may not set {name}; it comes from the request", "chat_template_kwargs"
            )
        messages = [message_for_template(message) for message in self.messages]
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


def message_for_template(message: Mapping[str, Any]) -> dict[str, Any]:
    """Content as one text, arguments as objects, reasoning under the name that templates read."""
    made = {name: value for name, value in message.items() if value is not None}
    made["content"] = text_of(message.get("content"))
    reasoning = made.get("reasoning_content", made.get("reasoning"))
    if isinstance(reasoning, str):
        made["reasoning_content"] = reasoning
    if made.get("role") == "developer":
        made["role"] = "system"
    if "tool_calls" in made:
        made["tool_calls"] = [_call_for_template(call) for call in made["tool_calls"]]
    return made


def text_of(content: Any) -> str:
    """Text parts joined by line ends. Raises RequestError for parts that are not text."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if not isinstance(part, Mapping):
            raise RequestError(f"content holds {short(part)}; each part is an object with its type", "messages")
        kind = part.get("type")
        if kind == "refusal":
            texts.append(part.get("refusal"))
        elif kind in ("text", "input_text", "output_text"):
            texts.append(part.get("text"))
        else:
            raise RequestError(f"a content part of type {kind!r} is not supported; send text parts", "messages")
        if not isinstance(texts[-1], str):
            raise RequestError(f"a content part of type {kind!r} holds no text; add it", "messages")
    return "\n".join(texts)


def _call_for_template(call: Any) -> dict:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError("messages: each of tool_calls needs function.name", "messages")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            # What the model wrote is shown to it again, valid or not.
            return {**call, "function": function}
    if isinstance(arguments, dict) or arguments is None:
        arguments = Arguments(arguments or {})
    return {**call, "function": {**function, "arguments": arguments}}


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
