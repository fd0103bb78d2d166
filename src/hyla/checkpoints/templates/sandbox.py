"""Jinja as chat templates know it, in its sandbox.

The names that a template may use are those of the published convention: `messages`, `tools`, `documents`,
`add_generation_prompt`, the special tokens, `raise_exception`, `strftime_now`, and the `tojson` filter.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's tokens for trainers; here it renders its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own spelling)

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateRefusal(jinja2.TemplateError):
    """The template itself rejected the messages through `raise_exception`."""


def _raise_exception(message: str):
    raise TemplateRefusal(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own filter escapes < > & for HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@cache
def environment() -> jinja2.Environment:
    """Parses in any process. To compile and to render is for a template's own: constants are computed by the former."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made
