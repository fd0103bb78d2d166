"""One model under its name: its engine, its tokenizer, and how its answers are read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial

from anyio import CapacityLimiter

from hyla.answers import registry
from hyla.answers.registry import AnswerFormat
from hyla.checkpoints import Tokenizer
from hyla.checkpoints.card import ModelCard, facts
from hyla.checkpoints.chat_template import ChatTemplate
from hyla.checkpoints.templates.protocol import ChatFormat
from hyla.engine.hosting.handle import EngineHandle
from hyla.errors import RequestError
from hyla.server.guard.limits import Limits
from hyla.server.reading.conversation import Conversation
from hyla.server.reading.lengths import check_length, most_text_bytes

PROMPT_WRITERS = 8
"""Conversations of one model that are written and encoded at a time."""


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as the engine gets it."""

    text: str
    token_ids: tuple[int, ...]


@dataclass
class ServedModel:
    """A model that requests name. Its engine runs from the server's start-up to its shutdown."""

    name: str
    worker: EngineHandle
    tokenizer: Tokenizer | None
    format: AnswerFormat
    """How reasoning and tool calls look in its answers."""
    card: ModelCard | None = None
    """What it is and what it was trained on; None: not known."""
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def prompt_writers(self) -> CapacityLimiter:
        """Of the threads that write and encode prompts, on the event loop that asks first."""
        return CapacityLimiter(PROMPT_WRITERS)

    @property
    def is_chat(self) -> bool:
        """Whether it has a chat template; a model without one is a base model, which continues text."""
        return self.tokenizer is not None and self.tokenizer.chat_template is not None

    def body(self) -> dict:
        """Its entry in /v1/models, for OpenAI's clients and Anthropic's; `is_chat` and `card` are ours."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "hyla",
            "type": "model",
            "display_name": self.name,
            "created_at": datetime.fromtimestamp(self.created, UTC).isoformat().replace("+00:00", "Z"),
            "max_model_len": self.worker.facts.context_len,
            "is_chat": self.is_chat,
            "card": self.card.model_dump(mode="json", exclude_none=True) if self.card is not None else None,
            "facts": [list(fact) for fact in facts(self.card)] if self.card is not None else [],
        }

    def require_tokenizer(self, what: str = "this route") -> Tokenizer:
        if self.tokenizer is None:
            raise RequestError(f"this model has no tokenizer and {what} needs one; send token ids", "messages")
        return self.tokenizer

    @cached_property
    def _most_text_bytes(self) -> int | None:
        """What no text of the context is longer than; None: not known."""
        ours = self.tokenizer if isinstance(self.tokenizer, Tokenizer) else None
        return most_text_bytes(ours, self.worker.facts.context_len) if ours is not None else None

    def check_length(self, text: str, name: str = "the prompt") -> None:
        """Raise RequestError for a text that is too long whatever it says, before anything reads it."""
        if self._most_text_bytes is not None:
            check_length(text, self._most_text_bytes, self.worker.facts.context_len, name)

    def prompt(self, conversation: Conversation) -> ChatPrompt:
        """Render and encode; takes a while for a long conversation."""
        tokenizer = self.require_tokenizer("chat")
        text = conversation.render(tokenizer)
        self.check_length(text)
        return ChatPrompt(text, tuple(tokenizer.encode(text, add_special_tokens=False)))


def serve_model(engine, name: str, *, limits: Limits, **reading) -> ServedModel:
    """A model over an `Engine`, on a thread of this process. reading: as of `served_model`."""
    from hyla.engine.hosting.thread import EngineThread

    worker = EngineThread(engine, max_requests=limits.max_requests)
    return served_model(worker, name, engine.tokenizer, **reading)


def use_template(tokenizer: Tokenizer, source: str | None) -> ChatFormat | None:
    """Have a tokenizer's chat template ready, or `source` in its place; None where there is none.

    Raises CheckpointError when it cannot be compiled within its bounds: before the weights are loaded, if it is asked
    before.
    """
    if source is not None:
        tokenizer.chat_template = ChatTemplate(source, "--chat-template")
    if tokenizer.chat_template is not None:
        tokenizer.chat_template.start()
    return tokenizer.chat_template


def served_model(
    worker: EngineHandle,
    name: str,
    tokenizer: Tokenizer | None,
    *,
    chat_template: str | None = None,
    tool_parser: str | None = None,
    reasoning_parser: str | None = None,
    model_type: str | None = None,
    card: ModelCard | None = None,
) -> ServedModel:
    """Set a model up for serving.

    chat_template: text that replaces the checkpoint's. tool_parser, reasoning_parser: names in `answers.registry`, or
    "none"; None: found in the chat template. model_type: of config.json, for a template that does not show its format.
    card: what people are told about it.
    The template is compiled here. Raises ConfigError for an unknown name, CheckpointError for a template that cannot be
    compiled within its bounds.
    """
    ours = tokenizer if isinstance(tokenizer, Tokenizer) else None
    template = use_template(ours, chat_template) if ours is not None else None
    form = registry.answer_format(
        template.source if template else "",
        tool_parser,
        reasoning_parser,
        model_type=model_type,
        special=ours.special_texts if ours is not None else (),
        encode=partial(ours.encode, add_special_tokens=False) if ours is not None else None,
    )
    return ServedModel(name, worker, tokenizer, form, card)
