"""Chat templates: Jinja texts from a checkpoint, from messages to the text of a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hyla.checkpoints.templates.process import Excess, Failure, NotCompiled, TemplateProcess
from hyla.checkpoints.templates.sandbox import environment
from hyla.errors import CheckpointError, RequestError

DEFAULT, TOOL_USE = "default", "tool_use"
"""The template, and the one that is taken where tools are given: the names that publishers use."""
MOST_SOURCE_CHARS = 1 << 18
"""Of all templates together; long published ones have 20,000."""
NAME = re.compile(r"\w[\w.-]*")
"""Names become names of files when a tokenizer is saved."""


class ChatTemplate:
    """A model's template, or several by name.

    It runs in a process of its own, in a sandbox, within bounds of time, memory and output (`templates.process`);
    nothing of it is computed in this one. source: its text, or texts by name.
    Raises CheckpointError when one is not valid Jinja, has too long a text, or a name that is no file's.
    """

    def __init__(self, source: str | Mapping[str, str], origin: str = "chat_template"):
        self.sources = {DEFAULT: source} if isinstance(source, str) else dict(source)
        self.origin = origin
        self._shown: dict[tuple[str, ...], bool] = {}
        """What `shows` found."""
        num_chars = sum(map(len, self.sources.values()))
        if num_chars > MOST_SOURCE_CHARS:
            raise CheckpointError(
                f"{origin} has {num_chars:,} characters, and at most {MOST_SOURCE_CHARS:,} are read; remove it"
            )
        for name, text in self.sources.items():
            if not NAME.fullmatch(name):
                raise CheckpointError(
                    f"{origin}: one is called {name[:80]!r}; a name has letters, digits, points and dashes only"
                )
            try:
                text.encode()
                environment().parse(text)
            except Exception as error:  # too deep, a number too long, ...: whatever the parser stumbles over
                raise CheckpointError(
                    f"{self._called(name)} is not a valid Jinja template: {error}; repair or remove it"
                ) from error
        self._process = TemplateProcess(self.sources)

    def _called(self, name: str) -> str:
        return self.origin if len(self.sources) == 1 else f"{self.origin} ({name})"

    @property
    def source(self) -> str:
        """The text of all of them, in which the formats of answers are looked for."""
        return "\n".join(self.sources.values())

    def start(self) -> None:
        """Have it compiled and waiting, so that the first prompt does not wait for that.

        Raises CheckpointError when it cannot be compiled within its bounds.
        """
        try:
            self._process.start()
        except NotCompiled as error:
            raise self._not_compiled(error) from error

    def _not_compiled(self, error: NotCompiled) -> CheckpointError:
        return CheckpointError(
            f"{self.origin} cannot be compiled: {error}; repair it, or serve the model with another one "
            "(--chat-template)"
        )

    def knows_role(self, role: str) -> bool:
        """Whether the template's text names a role."""
        return any(f"'{role}'" in text or f'"{role}"' in text for text in self.sources.values())

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

    def render(self, messages: list[dict], /, **names: Any) -> str:
        """The prompt text of a conversation. names: JSON values; with `tools` the template `tool_use` is taken, if any.

        Raises RequestError when the template cannot render these messages within its bounds, CheckpointError when it
        cannot even be compiled.
        """
        try:
            return self._process.render(self._chosen(names.get("tools")), {**names, "messages": messages})
        except NotCompiled as error:
            raise self._not_compiled(error) from error
        except Failure as error:
            what = "refuses these messages" if error.is_refusal else "fails on these messages"
            way_out = "" if error.is_refusal else "; check the roles and contents"
            raise RequestError(f"the model's chat template {what}: {error}{way_out}", "messages") from error
        except Excess as error:
            raise RequestError(
                f"the model's chat template {error} with these messages; send fewer or shorter ones, or have the "
                "server use another template (--chat-template)",
                "messages",
            ) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"the messages hold what is no JSON value: {error}; leave it out", "messages") from error

    def _chosen(self, tools: Any) -> str:
        if tools is not None and TOOL_USE in self.sources:
            return TOOL_USE
        if DEFAULT in self.sources:
            return DEFAULT
        names = ", ".join(sorted(self.sources))
        raise RequestError(
            f"the model has chat templates for {names} and none without tools; send tools, or use the completions "
            "endpoint",
            "messages",
        )
