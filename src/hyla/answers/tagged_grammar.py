"""Grammars of calls in the tagged formats, for a tool that must be called. What the schema asks of a string is asked of
the text between its tags; everything else is JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hyla.answers.call_shapes import Argument, count_of, refusal, shapes_of, short
from hyla.answers.grammar import Marker, json_rule, quoted, repeated, rules
from hyla.answers.lifting import DROPPED, Definitions
from hyla.answers.patterns import ANY, Unsupported, escaped, whole
from hyla.answers.schemas import Branch, TooComplex, branch_kinds, listed_values, properties_of, unfold, wanted_by
from hyla.answers.tagged_calls import Tags
from hyla.answers.tools import FunctionTool, ToolUse

TagOf = Callable[[str, bool], str]
LISTING = frozenset({"const", "enum", "type", "nullable", "format", "pattern", "minLength", "maxLength"})
"""Keywords that say no more of listed values than which they are, strings apart."""
UNSAID = ("not", "if", "then", "else")
"""Keywords that the text of a string cannot be held to."""


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
        made[f"call_{n}"] = writer.call(tool) if tools.is_held else writer.loose_call(tool)
    return rules(**made, **writer.made)


class _Writer:
    def __init__(self, tools: ToolUse, mark: Marker, tags: Tags, tag_of: TagOf | None):
        self.tools, self.mark, self.tags, self.tag_of = tools, mark, tags, tag_of
        self.line = "\n" if tags.has_lines else ""
        self.end = self.line + tags.parameter_close + "\n"
        self.made: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def _named(self, kind: str, body: str) -> str:
        """The name of a rule, the same for the same body."""
        if body not in self._names:
            self._names[body] = f"{kind}{len(self._names)}"
            self.made[self._names[body]] = body
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
        wanted = wanted_by(unfolded.branches)
        kinds = wanted.kinds - {"string"}
        if "string" in wanted.kinds and self.tag_of is None:
            # A number would be read as a string; where anything goes, whatever a text is read as is right.
            is_any = any(not any(part.keys() - DROPPED for part in branch) for branch in unfolded.branches)
            kinds &= frozenset() if is_any else {"array", "object"}
        has_brackets = bool(kinds) and self.tag_of is None
        branches = [branch for branch in unfolded.branches if _may_be_string(branch)]
        if unfolded.has_one_of and len(branches) > 1:
            raise refusal(tool, f"a oneOf of several strings in the property {argument.name!r}")
        given = [self._text(tool, argument.name, branch, names, has_brackets=has_brackets) for branch in branches]
        texts = list(dict.fromkeys(text for own in given for text in own))
        end = self.mark(self.end)
        definitions = Definitions()
        schema = definitions.lift(argument.schema, root, tool.name)
        if not branches:
            return [], [self._named("j", json_rule(definitions.with_root(_as_object(schema)))) + " " + end]
        if any(_is_filtered(branch) for branch in unfolded.branches):
            raise refusal(tool, f"values beside other keywords in the property {argument.name!r}")
        singles = [value for value in wanted.values if not isinstance(value, str)]
        others = [f"{quoted(json.dumps(value, ensure_ascii=False))} {end}" for value in singles]
        if kinds:
            narrow = definitions.with_root({"allOf": [schema, {"type": sorted(kinds)}]})
            others.append(self._named("j", json_rule(narrow)) + " " + end)
        return texts, others

    def _text(
        self, tool: FunctionTool, name: str, branch: Branch, names: list[str], *, has_brackets: bool
    ) -> list[str]:
        """The strings of one alternative.

        has_brackets: what begins as a list or an object is read as one, and so is no string.
        """
        word = next((word for part in branch for word in UNSAID if word in part), None)
        if word is not None:
            raise refusal(tool, f"{word!r} in the property {name!r}")
        fewest = max((count_of(tool, part, "minLength") or 0 for part in branch), default=0)
        lengths = [count for part in branch if (count := count_of(tool, part, "maxLength")) is not None]
        most = min(lengths, default=None)
        patterns = [part["pattern"] for part in branch if "pattern" in part]
        listed = listed_values(branch)
        if listed is not None:
            strings = [one for one in listed if isinstance(one, str) and _fits(one, fewest, most, patterns)]
            return [f"{quoted(one)} {self.mark(self.end)}" for one in strings if self._check(tool, name, one)]
        if most is not None and most < fewest:
            return []
        conditions = [rf"~/\s*[\[{{]{ANY}/"] if has_brackets else []
        wrong = [pattern for pattern in patterns if not isinstance(pattern, str)]
        if wrong:
            raise refusal(tool, f"a pattern that is no text ({short(wrong[0])}) in the property {name!r}")
        try:
            expressions = [whole(pattern) for pattern in patterns]
        except Unsupported as error:
            raise refusal(tool, f"a pattern in the property {name!r} that no grammar can follow ({error})") from error
        has_length = bool(fewest) or most is not None
        if has_length and not all(is_anchored for _, is_anchored in expressions):
            raise refusal(tool, f"a pattern without ^ and $ beside a length in the property {name!r}")
        conditions += [f"/{expression}/" for expression, _ in expressions]
        if has_length:
            conditions.append(f"/(?s:.{{{fewest},{'' if most is None else most}}})/")
        return [self._terminal(conditions, names)]

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


def _may_be_string(branch: Branch) -> bool:
    listed = listed_values(branch)
    return "string" in branch_kinds(branch) if listed is None else any(isinstance(value, str) for value in listed)


def _is_filtered(branch: Branch) -> bool:
    """Whether an alternative lists numbers, lists or objects and asks for more of them."""
    values = [value for value in listed_values(branch) or () if not isinstance(value, str | bool | None)]
    return bool(values) and any(part.keys() - DROPPED - LISTING for part in branch)


def _as_object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {"allOf": [schema]}


def _fits(value: str, fewest: int, most: int | None, patterns: list[str]) -> bool:
    is_long = fewest <= len(value) and (most is None or len(value) <= most)
    return is_long and all(isinstance(pattern, str) and re.search(pattern, value) for pattern in patterns)
