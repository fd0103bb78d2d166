"""Parsers by name, and which of them a chat template asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hyla.answers import deepseek, grammar, hermes, kimi_k2, minimax, nemotron, qwen_xml, thinking
from hyla.answers.constraints import text_grammar
from hyla.answers.early_calls import EarlyCalls
from hyla.answers.protocol import Parser, PlainParser
from hyla.answers.thinking import ReasoningFormat, ThinkingParser
from hyla.answers.tool_format import ToolFormat
from hyla.answers.tools import ToolUse
from hyla.errors import ConfigError, FieldError, RequestError

TOOL_FORMATS: tuple[ToolFormat, ...] = (
    qwen_xml.MIMO,
    qwen_xml.FORMAT,
    kimi_k2.FORMAT,
    deepseek.V32,
    deepseek.V3,
    deepseek.V31,
    minimax.M2,
    minimax.M1,
    nemotron.FORMAT,
    hermes.FORMAT,
)
"""Every format of tool calls; the first one that a chat template shows is the model's."""

NONE = "none"
MOST_HELD_CHARS = 1 << 16
"""Of the schemas that a required call is held to, all tools together: as many as a grammar may have."""

Format = TypeVar("Format", ToolFormat, ReasoningFormat)


@dataclass(frozen=True)
class Reading:
    """How the answers to one prompt are sampled and read."""

    parser: Callable[[], Parser]
    """A new parser for one choice."""
    params: dict[str, Any]
    """Sampling parameters that it needs."""


@dataclass(frozen=True)
class AnswerFormat:
    """How one model's answers look."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None
    special: tuple[str, ...] = ()
    """The tokenizer's special tokens."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """Ids of those that do not stand between < and >."""
    thinking_ids: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    """The tags of the reasoning as token ids."""

    def marks(self) -> dict[str, Any]:
        """Sampling parameters that say where thinking begins and ends. Raises RequestError when nobody knows."""
        if self.thinking_ids is None:
            raise FieldError(
                "this model has no thinking that is known here and could be bounded; leave {thinking_budget} out, or "
                "start the server with --reasoning-parser",
                "thinking_budget",
            )
        return dict(zip(("thinking_start_ids", "thinking_end_ids"), self.thinking_ids))

    def names(self) -> dict[str, str | None]:
        """The formats by their names, for people."""
        return {
            "tools": self.tools.name if self.tools else None,
            "reasoning": self.reasoning.name if self.reasoning else None,
        }

    def reading(
        self,
        prompt: str,
        tools: ToolUse,
        constraint: dict | None = None,
        *,
        budget: int | None = None,
        may_think: bool = True,
        is_continued: bool = False,
    ) -> Reading:
        """For the answers to a prompt.

        constraint: what the request wants them to look like; it holds after reasoning, and for an answer that is no
        call where tools may be called. budget: most tokens of reasoning. may_think: False: the request wants none, so
        that a constraint holds at once and a budget has nothing to bound, unless the prompt has opened reasoning all
        the same. is_continued: the answer goes on with the prompt's last message; elsewhere only the prompt's own end
        opens reasoning, and no tag in a message does.

        Raises RequestError when a call is required and there is no format, or beside another constraint, and for a
        budget when no reasoning is known.
        """
        is_open = self.reasoning is not None and self.reasoning.is_opened_by(prompt)
        uses_tools = tools.mode != "none"
        if uses_tools and self.tools is None:
            raise RequestError(
                "this model's chat template has no format of tool calls that is known here; start the server with "
                "--tool-parser, or leave tools out",
                "tools",
            )
        if uses_tools and self.tools is not None:
            constraint = self._with_calls(self.tools, tools, constraint)
        params: dict[str, Any] = {"grammar": constraint, "thinking_budget": None}
        thinks = may_think or is_open
        if thinks and (budget is not None or self.thinking_ids is not None):
            params |= self.marks() | {"thinking_budget": budget}
            params["thinking_is_open"] = None if is_continued else is_open
        markers = self.tools.markers if uses_tools and self.tools is not None else ()
        if any(token in marker for token in self.special for marker in markers):
            params["skip_special_tokens"] = False
        return Reading(partial(self._parser, tools if uses_tools else None, is_open), params)

    def _with_calls(self, form: ToolFormat, tools: ToolUse, constraint: dict | None) -> dict | None:
        """What the answer must look like: calls where one is required, calls or the text that is wanted elsewhere."""
        if tools.mode == "required" and constraint is not None:
            raise RequestError("tool_choice asks for a call and another field for a text; give one", "tool_choice")
        answer = grammar.answer_rule(constraint) if constraint is not None else None
        if tools.mode != "required" and answer is None:
            return constraint
        size = len(json.dumps([tool.parameters for tool in tools.tools])) if tools.is_held else 0
        if size > MOST_HELD_CHARS:
            raise RequestError(
                f"tools: the parameters of {len(tools.tools)} tools have {size} characters together, and a required "
                f"call is held to at most {MOST_HELD_CHARS}; name fewer in tool_choice, or set it to auto",
                "tools",
            )
        calls = form.grammar(tools, grammar.marker_of(self.special, self.special_ids))
        return text_grammar(calls if answer is None else grammar.calls_or(calls, answer))

    def _parser(self, tools: ToolUse | None, is_open: bool) -> Parser:
        form = None if tools is None else self.tools
        inner = PlainParser() if form is None or tools is None else form.make(tools)
        if self.reasoning is None:
            return inner
        calls = None
        if form is not None and tools is not None:
            calls = EarlyCalls(form.sections, partial(form.make, tools), tools.names)
        return ThinkingParser(self.reasoning, inner, is_open=is_open, calls=calls)


def answer_format(
    template: str,
    tool_parser: str | None = None,
    reasoning_parser: str | None = None,
    *,
    model_type: str | None = None,
    special: Sequence[str] = (),
    encode: Callable[[str], Sequence[int]] | None = None,
) -> AnswerFormat:
    """The format of a chat template, else of a family that has tools, or the named one ("none": none).

    special, encode: the tokenizer's special tokens, and its token ids of a tag. Raises ConfigError for an unknown name.
    """
    found_tools = _named(tool_parser, TOOL_FORMATS, "--tool-parser")
    found_reasoning = _named(reasoning_parser, thinking.FORMATS, "--reasoning-parser")
    if tool_parser is None:
        found_tools = next((form for form in TOOL_FORMATS if form.is_in(template)), None)
        if found_tools is None and "tools" in template:
            found_tools = next((form for form in TOOL_FORMATS if model_type in form.families), None)
    if reasoning_parser is None:
        found_reasoning = next((f for f in thinking.FORMATS if any(sign in template for sign in f.signs)), None)
    ids = None
    if found_reasoning is not None and encode is not None:
        ids = tuple(encode(found_reasoning.opening)), tuple(encode(found_reasoning.closing))
    numbers = _ids_of([text for text in special if not text.startswith("<")], encode)
    return AnswerFormat(found_tools, found_reasoning, tuple(special), numbers, ids)


def _ids_of(tokens: Sequence[str], encode: Callable[[str], Sequence[int]] | None) -> dict[str, int]:
    found = {text: encode(text) for text in tokens} if encode is not None else {}
    return {text: ids[0] for text, ids in found.items() if len(ids) == 1}


def _named(name: str | None, formats: Sequence[Format], flag: str) -> Format | None:
    if name in (None, NONE):
        return None
    found = next((form for form in formats if form.name == name), None)
    if found is None:
        known = ", ".join([*(form.name for form in formats), NONE])
        raise ConfigError(f"{flag} {name!r} is not known; choose one of {known}")
    return found
