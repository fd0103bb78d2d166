"""Chat templates: Jinja text from a checkpoint, rendered in a sandbox.

The names that a template may use are those of the published convention: `messages`, `tools`, `documents`,
`add_generation_prompt`, the special tokens, `raise_exception`, `strftime_now`, and the `tojson` filter.
"""

from __future__ import annotations

import json
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hyla.errors import CheckpointError, RequestError


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's tokens for trainers; here it renders its body."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own spelling)

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _TemplateRefusal(jinja2.TemplateError):
    """The template itself rejected the messages through `raise_exception`."""


def _raise_exception(message: str):
    raise _TemplateRefusal(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    # Jinja's own filter escapes < > & for HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled template. Raises CheckpointError when its source is not valid Jinja."""

    def __init__(self, source: str, origin: str = "chat_template"):
        self.source = source
        self._shown: dict[tuple[str, ...], bool] = {}
        """What `shows` found."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        # Besides its own errors: what Python says of the program that Jinja makes of it, of its numbers and its nests.
        except (jinja2.TemplateError, ValueError, SyntaxError, RecursionError, ArithmeticError, MemoryError) as error:
            raise CheckpointError(f"{origin} is not a valid Jinja template: {error}; repair or remove it") from error

    def knows_role(self, role: str) -> bool:
        """Whether the template's text names a role."""
        return f"'{role}'" in self.source or f'"{role}"' in self.source

    def shows(self, roles: tuple[str, ...]) -> bool:
        """Whether it shows each message of a conversation that begins with these roles, told by rendering one."""
        if roles not in self._shown:
            texts = [f"<<{n}>>" for n in range(len(roles))]
            messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
            try:
                made = self.render(
                    [*messages, {"role": "user", "content": "x"}], add_generation_prompt=True, tools=None
                )
            except RequestError:
                made = ""
            self._shown[roles] = all(text in made for text in texts)
        return self._shown[roles]

    def render(self, messages: list[dict], **names) -> str:
        """The prompt text of a conversation. Raises RequestError when the template cannot render these messages."""
        try:
            return self._template.render(messages=messages, **names)
        except _TemplateRefusal as error:
            raise RequestError(f"the model's chat template refuses these messages: {error}", "messages") from error
        except Exception as error:  # a template is a program from elsewhere: it can fail in any way
            raise RequestError(
                f"the model's chat template fails on these messages: {error}; check the roles and contents", "messages"
            ) from error
