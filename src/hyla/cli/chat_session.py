"""One conversation in the terminal: questions, streamed answers, and commands that start with a slash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.text import Text

from hyla.cli.answer_text import ThinkingSplitter
from hyla.cli.chat_models import ChatModel, Message, Piece, Prompt, RemoteModel
from hyla.cli.console import PlainConsole, console
from hyla.cli.line_editor import FENCE, read_message
from hyla.errors import HylaError, RequestError
from hyla.terminal_text import printable, shortened

CHAT_TOKENS, CONTINUED_TOKENS = 512, 120
"""Longest answer, and longest continuation of a base model, which does not know when to end."""

SETTINGS = (
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
)
"""What /set changes, by `SamplingParams`' names, which are also the API's."""


class Session:
    """A conversation, or with a base model a text that grows: its messages are then that text's parts.

    settings: of the answers, by `SamplingParams`' names; for others the model's advice holds.
    """

    def __init__(self, model: ChatModel, settings: dict[str, Any], *, system: str | None = None):
        self.model, self.settings = model, dict(settings)
        self.messages: list[Message] = []
        self.system = system
        self._is_over = False

    def run(self) -> None:
        """Until the end of input."""
        if console.is_terminal:
            console.print(self.model.name, style="bold", end="")
            console.print("  /help lists the commands, Ctrl-D ends it")
        self._say_what_it_is()
        while not self._is_over:
            try:
                line = read_message()
            except KeyboardInterrupt:
                console.print()
                continue
            if line is None:
                if console.is_terminal:
                    console.print()
                break
            self.take(line)

    def take(self, line: str) -> None:
        """A command or a question."""
        try:
            if line.startswith("/"):
                self._command(line)
            elif line.strip() or self._goes_on:
                self.ask(line)
        except (HylaError, OSError) as error:
            console.print(f"error: {shortened(str(error))}", style="red", markup=False)

    # Answers

    @property
    def _is_chat(self) -> bool:
        return self.model.abilities.is_chat

    @property
    def _goes_on(self) -> bool:
        """Whether an empty line means: more of the same text."""
        return not self._is_chat and bool(self.messages)

    def _say_what_it_is(self) -> None:
        """A base model cannot be talked to: say so, and what it does instead, beside the output."""
        if self._is_chat:
            return
        example = next((text.strip().partition("\n")[0] for text in self.model.abilities.examples), "")
        begin = f"type how a text begins, as {example!r}" if example else "type how a text begins"
        PlainConsole(stderr=True).print(
            f"{self.model.name} is a base model (no chat template): it continues text. {begin}; an empty line goes on, "
            "/retry draws again",
            markup=False,
            soft_wrap=True,
        )

    def ask(self, question: str) -> None:
        """Answer a question and remember both; a failed one is forgotten. To a base model, each is a new text."""
        before = list(self.messages)
        if not self._is_chat and question.strip():
            self.messages.clear()
        self.messages.append({"role": "user", "content": question if self._is_chat else question.rstrip("\n")})
        try:
            answer = self._answer()
        except BaseException:
            self.messages[:] = before
            raise
        self.messages.append({"role": "assistant", "content": answer})

    def _whole(self) -> Prompt:
        """What the model gets."""
        if not self._is_chat:
            return "".join(message["content"] for message in self.messages)
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages

    def in_force(self) -> dict[str, Any]:
        """The settings of the next answer: what was set, else what the model advises, else the defaults."""
        most = CHAT_TOKENS if self._is_chat else CONTINUED_TOKENS
        return {"max_tokens": most, "temperature": 0.7, **self.model.abilities.sampling, **self.settings}

    def _answer(self) -> str:
        """Print an answer as it comes. Ctrl-C stops it; what was said so far counts."""
        answer, splitter, watch = "", ThinkingSplitter(), Stopwatch()
        pieces = self.model.stream(self._whole(), self.in_force())
        try:
            for piece in pieces:
                watch.note(piece)
                thinking, text = splitter.add(piece.text) if self._is_chat else ("", piece.text)
                answer += self._show(piece.reasoning + thinking, text)
            answer += self._show(*splitter.end())
        except KeyboardInterrupt:
            watch.is_stopped = True
        finally:
            pieces.close()
            console.print()
        if console.is_terminal:
            console.print(watch.line(), style="dim")
        return answer

    @staticmethod
    def _show(thinking: str, answer: str) -> str:
        for text, style in ((thinking, "dim italic"), (answer, "")):
            if text:
                console.print(Text(printable(text), style=style), end="", soft_wrap=True)
        return answer

    # Commands

    def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        if name not in COMMANDS:
            raise RequestError(f"there is no /{name}; /help lists the commands", "command")
        COMMANDS[name][1](self, argument.strip())

    def help(self, argument: str) -> None:
        for name, (text, _) in COMMANDS.items():
            console.print(f"  /{name:8} {text}", markup=False)
        console.print(
            f"  A line that ends with \\ goes on; {FENCE} begins and ends a message of several lines.", markup=False
        )
        console.print("  Ctrl-C stops an answer; Ctrl-D ends the conversation.")

    def reset(self, argument: str) -> None:
        self.messages.clear()

    def undo(self, argument: str) -> None:
        if not self.messages:
            raise RequestError("there is nothing to undo", "messages")
        del self.messages[-2:]

    def retry(self, argument: str) -> None:
        if not self.messages:
            raise RequestError("there is nothing to answer again", "messages")
        before = self.messages[-2:]
        del self.messages[-2:]
        try:
            self.ask(before[0]["content"])
        except BaseException:
            self.messages += before
            raise

    def set_system(self, argument: str) -> None:
        self.system = argument or None

    def set(self, argument: str) -> None:
        """`NAME VALUE` changes a setting, `NAME` alone forgets it, nothing shows all."""
        from hyla.engine import SamplingParams

        name, _, value = argument.partition(" ")
        if not name:
            console.print(json.dumps(self.in_force()), markup=False)
            return
        changed = {other: kept for other, kept in self.settings.items() if other != name}
        if name not in SETTINGS:
            raise RequestError(f"{name!r} is no setting of a conversation; there are {', '.join(SETTINGS)}", name)
        if value:
            changed[name] = _parse(value)
        SamplingParams(**changed)
        self.settings = changed

    def choose(self, argument: str) -> None:
        if not isinstance(self.model, RemoteModel):
            raise RequestError(f"this conversation is with {self.model.name} in this process", "model")
        if argument:
            self.model.choose(argument)
            self._say_what_it_is()
        else:
            console.print(", ".join(self.model.names), markup=False)

    def save(self, argument: str) -> None:
        if not argument:
            raise RequestError("name a file: /save FILE", "file")
        body = {"system": self.system, "messages": self.messages, "settings": self.settings}
        Path(argument).expanduser().write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def load(self, argument: str) -> None:
        try:
            body = json.loads(Path(argument).expanduser().read_text(encoding="utf-8"))
            messages = [
                {"role": str(message["role"]), "content": str(message["content"])} for message in body["messages"]
            ]
            system, settings = body.get("system"), dict(body.get("settings") or {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RequestError(f"{argument} is no conversation that /save wrote: {error!r}", "file") from error
        self.messages, self.system, self.settings = messages, system, settings

    def exit(self, argument: str) -> None:
        self._is_over = True


def _parse(value: str) -> Any:
    """A number, a list or a text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


COMMANDS: dict[str, tuple[str, Callable[[Session, str], None]]] = {
    "help": ("this list", Session.help),
    "reset": ("forget the conversation", Session.reset),
    "undo": ("forget the last question and its answer", Session.undo),
    "retry": ("answer the last question again", Session.retry),
    "system": ("TEXT: the system's message; nothing: none", Session.set_system),
    "set": ("NAME VALUE: a setting, as temperature 0.2; NAME: its default; nothing: show all", Session.set),
    "model": ("NAME: another model of the server; nothing: list them", Session.choose),
    "save": ("FILE: keep the conversation as JSON", Session.save),
    "load": ("FILE: go on with a kept conversation", Session.load),
    "exit": ("end", Session.exit),
}


class Stopwatch:
    """How fast an answer came."""

    def __init__(self):
        self._start, self._first, self._last = time.perf_counter(), 0.0, 0.0
        self._pieces = 0
        self._counts: Piece | None = None
        self.is_stopped = False

    def note(self, piece: Piece) -> None:
        if piece.text or piece.reasoning:
            self._last = time.perf_counter()
            self._first = self._first or self._last
            self._pieces += 1
        if piece.completion_tokens is not None:
            self._counts = piece

    def line(self) -> str:
        counts = self._counts
        tokens = self._pieces if counts is None or counts.completion_tokens is None else counts.completion_tokens
        parts = [f"{counts.prompt_tokens} prompt tokens, {counts.cached_tokens} cached"] if counts else []
        parts.append(f"{tokens} tokens")
        if tokens > 1 and self._last > self._first:
            parts.append(f"{(tokens - 1) / (self._last - self._first):.1f} tokens/s")
        if self._first:
            parts.append(f"first after {self._first - self._start:.2f} s")
        return " · ".join([*parts, *(["stopped"] if self.is_stopped else [])])
