"""Grammars of calls in the tagged formats, for a tool that must be called. What the schema asks of a string is asked of
the text between its tags; everything else is JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hyla.answers.asked_text import asked_of_text
from hyla.answers.call_shapes import Argument, refusal, shapes_of
from hyla.answers.followable import Unfollowable
from hyla.answers.grammar import Marker, json_rule, quoted, repeated, rules
from hyla.answers.lifting import DROPPED, Definitions
from hyla.answers.patterns import ANY, escaped
from hyla.answers.schemas import (
    Branch,
    TooComplex,
    Unfolded,
    branch_kinds,
    listed_values,
    properties_of,
    unfold,
    wanted_by,
)
from hyla.answers.tagged_calls import Tags
from hyla.answers.tools import FunctionTool, ToolUse

TagOf = Callable[[str, bool], str]
LISTING = frozenset({"const", "enum", "type", "nullable", "format", "pattern", "minLength", "maxLength"})
"""Keywords that say no more of listed values than which they are, strings apart."""


def tagged_calls(tools: ToolUse, mark: Marker, tags: Tags, *, tag_of: TagOf | None = None) -> str:
    """tag_of: from a parameter's name, and whether its text is a string, to what stands in its tag.

    Raises RequestError that names a tool and what of its schema cannot be said.
    """
    writer = _Writer(tools, mark, tags, tag_of)
    # Line ends belong to what stands before them: the lexer takes the longest terminal and never goes back.
    opening, closing = mark(tags.section[0] + "\n"), mark(tags.section[1])
    made = {"start": f"{opening} {repeated('call', tools)} {closing}"}
    made["call"] = " | ".join(f"call_{n}" for n in range(len(tools.tools)))
    for n, tool in enumerate(tools.tools):
        writer.owner = tool.name
        made[f"call_{n}"] = writer.call(tool) if tools.is_held else writer.loose_call(tool)
    return rules({**made, **writer.made}, writer.owners)


class _Writer:
    def __init__(self, tools: ToolUse, mark: Marker, tags: Tags, tag_of: TagOf | None):
        self.tools, self.mark, self.tags, self.tag_of = tools, mark, tags, tag_of
        self.line = "\n" if tags.has_lines else ""
        self.end = self.line + tags.parameter_close + "\n"
        self.made: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.owner = ""
        """The tool that is being written."""
        self.owners: dict[str, str] = {}
        """Tools by the rules that were first made for them."""

    def _named(self, kind: str, body: str) -> str:
        """The name of a rule, the same for the same body."""
        if body not in self._names:
            self._names[body] = f"{kind}{len(self._names)}"
            self.made[self._names[body]] = body
            self.owners[self._names[body]] = self.owner
        return self._names[body]

    def call(self, tool: FunctionTool) -> str:
        """The body of a tool's rule."""
        tags = self.tags
        start = self.mark(tags.call_open + tool.name + tags.call_name_end + "\n")
        end = self.mark(tags.call_close + "\n")
        made = []
        for shape in shapes_of(tool):
            parts = [self._part(tool, argument, [own.name for own in shape]) for argument in shape]
            made.append(" ".join([start, *filter(None, parts), end]))
        return " | ".join(made)

    def loose_call(self, tool: FunctionTool) -> str:
        """Any of a tool's arguments, in any order, with any values."""
        tags = self.tags
        names = list(properties_of(tool.parameters or {}))
        parts = [self._part(tool, Argument(name, True, True), names) for name in names]
        inside = f"({' | '.join(parts)})*" if parts else ""
        start = self.mark(tags.call_open + tool.name + tags.call_name_end + "\n")
        return " ".join(filter(None, [start, inside, self.mark(tags.call_close + "\n")]))

    def _part(self, tool: FunctionTool, argument: Argument, names: list[str]) -> str:
        """One argument, optional unless it is required; nothing where none can be given."""
        texts, others = self._values(tool, argument, names)
        tags, made = self.tags, []
        groups = [(True, texts), (False, others)] if self.tag_of else [(True, [*texts, *others])]
        for is_text, values in groups:
            inside = self.tag_of(argument.name, is_text) if self.tag_of else argument.name
            start = self.mark(tags.parameter_open + inside + tags.parameter_name_end + self.line)
            made += [f"{start} ({' | '.join(values)})"] if values else []
        if not made and argument.is_required:
            raise refusal(tool, f"a required property {argument.name!r} that nothing fits")
        return self._named("p", " | ".join(made)) + ("" if argument.is_required else "?") if made else ""

    def _values(self, tool: FunctionTool, argument: Argument, names: list[str]) -> tuple[list[str], list[str]]:
        """What may stand behind a parameter's tag, its end included: strings, and other values."""
        root = tool.parameters or {}
        try:
            unfolded = unfold(argument.schema, root)
        except TooComplex as error:
            raise refusal(tool, f"a property {argument.name!r} that cannot be followed ({error})") from error
        branches = [branch for branch in unfolded.branches if _may_be_string(branch)]
        if unfolded.has_one_of and len(branches) > 1:
            raise refusal(tool, f"a oneOf of several strings in the property {argument.name!r}")
        kinds = self._other_kinds(unfolded)
        has_brackets = bool(kinds) and self.tag_of is None
        given = [self._texts(tool, argument.name, branch, names, has_brackets=has_brackets) for branch in branches]
        others = self._others(tool, argument, unfolded, kinds, is_mixed=bool(branches))
        return list(dict.fromkeys(text for texts in given for text in texts)), others

    def _other_kinds(self, unfolded: Unfolded) -> frozenset[str]:
        """Kinds beside strings of which any value that the schema allows may be written."""
        kinds = wanted_by(unfolded.branches).kinds
        if "string" not in kinds or self.tag_of is not None:
            return kinds - {"string"}
        # A number would be read as a string; where anything goes, whatever a text is read as is right.
        is_any = any(not any(part.keys() - DROPPED for part in branch) for branch in unfolded.branches)
        return frozenset() if is_any else kinds & {"array", "object"}

    def _others(
        self, tool: FunctionTool, argument: Argument, unfolded: Unfolded, kinds: frozenset[str], *, is_mixed: bool
    ) -> list[str]:
        """Values that are no strings. is_mixed: there are strings besides."""
        definitions, end = Definitions(), self.mark(self.end)
        schema = definitions.lift(argument.schema, tool.parameters or {}, tool.name)
        values = wanted_by(unfolded.branches).values
        if not is_mixed:
            whole_rule = _json_of(tool, argument, definitions.with_root(_as_object(schema)))
            return [f"{self._named('j', whole_rule)} {end}"] if kinds or values else []
        if any(_is_filtered(branch) for branch in unfolded.branches):
            raise refusal(tool, f"values beside other keywords in the property {argument.name!r}")
        singles = [json.dumps(value, ensure_ascii=False) for value in values if not isinstance(value, str)]
        made = [f"{quoted(single)} {end}" for single in singles]
        if kinds:
            narrow = definitions.with_root({"allOf": [schema, {"type": sorted(kinds)}]})
            made.append(f"{self._named('j', _json_of(tool, argument, narrow))} {end}")
        return made

    def _texts(
        self, tool: FunctionTool, name: str, branch: Branch, names: list[str], *, has_brackets: bool
    ) -> list[str]:
        """The strings of one alternative.

        has_brackets: what begins as a list or an object is read as one, and so is no string.
        """
        asked = asked_of_text(tool, name, branch)
        listed = listed_values(branch)
        if listed is not None:
            strings = [value for value in listed if isinstance(value, str) and asked.fits(value, tool, name)]
            return [f"{quoted(value)} {self.mark(self.end)}" for value in strings if self._check(tool, name, value)]
        if asked.most is not None and asked.most < asked.fewest:
            return []
        brackets = [rf"~/\s*[\[{{]{ANY}/"] if has_brackets else []
        return [self._terminal([*brackets, *asked.conditions(tool, name)], names)]

    def _check(self, tool: FunctionTool, name: str, value: str) -> bool:
        if self.tags.parameter_close in value:
            raise refusal(tool, f"a value of the property {name!r} with {self.tags.parameter_close!r} in it")
        return True

    def _terminal(self, conditions: list[str], names: list[str]) -> str:
        """Text under some conditions and the parameter's end, as a rule's body. It holds nothing that ends a value."""
        tags = self.tags
        openings = [f"{tags.parameter_open}{name}{tags.parameter_name_end[0]}" for name in names]
        openings += [f"{tags.call_open}{name}{tags.call_name_end[0]}" for name in self.tools.names]
        first, _, rest = self.mark(self.end).partition(" ")
        has_text = first.startswith('"')
        close = json.loads(first) if rest and has_text else tags.parameter_close
        never = "|".join(escaped(text) for text in [close, *openings])
        # The first condition keeps the complement, which is of bytes, to characters.
        inside = " & ".join([f"/{ANY}/", *conditions, f"~/{ANY}({never}){ANY}/"])
        if not has_text:
            return f"{self._named('V', f'{inside} & /(?s:.+)/')}{'' if conditions else '?'} {self.mark(self.end)}"
        terminal = self._named("V", f"({inside}) {first}")
        # Where a token of its own ends the value, text may hold what stands before that token.
        return f"{terminal}{'+' if rest and not conditions else ''} {rest}".strip()


def _json_of(tool: FunctionTool, argument: Argument, schema: Any) -> str:
    try:
        return json_rule(schema)
    except Unfollowable as error:
        raise refusal(tool, f"in the property {argument.name!r} what no grammar can follow: {error}") from error


def _may_be_string(branch: Branch) -> bool:
    listed = listed_values(branch)
    return "string" in branch_kinds(branch) if listed is None else any(isinstance(value, str) for value in listed)


def _is_filtered(branch: Branch) -> bool:
    """Whether an alternative lists numbers, lists or objects and asks for more of them."""
    values = [value for value in listed_values(branch) or () if not isinstance(value, str | bool | None)]
    return bool(values) and any(part.keys() - DROPPED - LISTING for part in branch)


def _as_object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {"allOf": [schema]}
