"""What `hyla chat` talks to: a model in this process, or a server with OpenAI's API. Both stream their answers."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from typing import Any, Protocol

from hyla.errors import HylaError, RequestError

Message = dict[str, str]


@dataclass(frozen=True)
class Piece:
    """A part of an answer; the last one has the counts."""

    text: str = ""
    reasoning: str = ""
    """Thinking that the server tells apart."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    completion_tokens: int | None = None


class ChatModel(Protocol):
    """Something that answers conversations."""

    name: str

    def stream(self, messages: list[Message], settings: dict[str, Any]) -> Generator[Piece, None, None]:
        """Pieces of the answer. Closing the generator stops it. Raises HylaError."""
        ...


@contextmanager
def open_model(
    target: str, *, name: str | None, api_key: str | None, options: dict[str, Any] | None = None
) -> Iterator[ChatModel]:
    """The model of a URL, a folder or a hub name. options: of a local engine. Raises HylaError."""
    if not target.startswith(("http://", "https://")):
        with _open_folder(target, dict(options or {})) as local:
            yield local
        return
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    base = target.rstrip("/").removesuffix("/v1") + "/v1/"
    # An answer may take its time to begin; only connecting must be quick.
    timeout = httpx.Timeout(None, connect=10.0)
    with httpx.Client(base_url=base, headers=headers, timeout=timeout) as client:
        yield RemoteModel(client, name)


@contextmanager
def _open_folder(folder: str, options: dict[str, Any]) -> Iterator[LocalModel]:
    import hyla
    from hyla.checkpoints import open_checkpoint, resolve
    from hyla.cli.console import loading_bar
    from hyla.engine import EngineThread

    found = resolve(folder, options.pop("revision", None))
    checkpoint = open_checkpoint(found)
    tokenizer = checkpoint.tokenizer()
    with loading_bar() as progress:
        engine = hyla.Engine(found, tokenizer=tokenizer, **options, max_num_sequences=1, progress=progress)
    thread = EngineThread(engine)
    thread.start()
    try:
        yield LocalModel(thread, checkpoint.name)
    finally:
        thread.stop()


class LocalModel:
    """An engine on a thread of its own, so that Ctrl-C never interrupts one of its steps."""

    def __init__(self, thread, name: str):
        self.thread, self.name = thread, name
        self._numbers = count()

    def stream(self, messages: list[Message], settings: dict[str, Any]) -> Generator[Piece, None, None]:
        from hyla.engine import Request, SamplingParams

        prompt = tuple(self.thread.engine.tokenizer.encode_chat(messages))
        request = Request(f"chat-{next(self._numbers)}", prompt, SamplingParams(**settings))
        events: SimpleQueue = SimpleQueue()
        self.thread.submit(request, events.put)
        try:
            while True:
                event = events.get()
                if event.finish_reason == "error":
                    raise HylaError(event.error or "the engine failed")
                usage = event.usage
                counts = (
                    (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) if usage else (None, 0, None)
                )
                yield Piece(event.text or "", "", event.finish_reason, *counts)
                if event.finish_reason is not None:
                    return
        finally:
            self.thread.cancel(request.request_id)


def _piece(event) -> Piece:
    usage = event.usage
    if usage is None:
        return Piece(event.text or "", finish_reason=event.finish_reason)
    counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    return Piece(event.text or "", "", event.finish_reason, *counts)


class RemoteModel:
    """A server with OpenAI's API. name: of the model; None: the server's first."""

    def __init__(self, client, name: str | None = None):
        self.client = client
        self.names = [entry["id"] for entry in self._get("models")["data"]]
        if not self.names:
            raise HylaError(f"{client.base_url} serves no model")
        self.name = self.names[0]
        if name is not None:
            self.choose(name)

    def choose(self, name: str) -> None:
        """Talk to another of the server's models."""
        if name not in self.names:
            raise RequestError(f"model {name!r} is not served; there are {', '.join(self.names)}", "model")
        self.name = name

    def _get(self, path: str) -> dict:
        with self._failures():
            response = self.client.get(path)
            self._check(response)
            return response.json()

    def stream(self, messages: list[Message], settings: dict[str, Any]) -> Generator[Piece, None, None]:
        body = {"model": self.name, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        with (
            self._failures(),
            self.client.stream("POST", "chat/completions", json={**body, **settings}) as response,
        ):
            if response.is_error:
                response.read()
            self._check(response)
            # Not iter_lines: it splits at characters that may stand inside of an event.
            for data in event_data(response.iter_bytes()):
                if data == "[DONE]":
                    return
                yield self._piece(json.loads(data))

    @staticmethod
    def _piece(chunk: dict) -> Piece:
        if "error" in chunk:
            raise HylaError(str(chunk["error"].get("message", chunk["error"])))
        choice = (chunk.get("choices") or [{}])[0]
        delta = choice.get("delta") or {}
        usage = chunk.get("usage") or {}
        return Piece(
            text=delta.get("content") or "",
            reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens"),
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            completion_tokens=usage.get("completion_tokens"),
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What can go wrong on the way, as one sentence."""
        import httpx

        try:
            yield
        except httpx.HTTPError as error:
            raise HylaError(f"{self.client.base_url} cannot be reached: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise HylaError(f"{self.client.base_url} did not answer as OpenAI's API does: {error!r}") from error

    def _check(self, response) -> None:
        if not response.is_error:
            return
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:500]
        raise HylaError(f"status {response.status_code}: {message}")


def event_data(pieces: Iterator[bytes]) -> Iterator[str]:
    r"""Data of server-sent events, whatever pieces they come in.

    >>> list(event_data(iter([b"data: a\r", b"\ndata: b\n\n: hi\n\nda", b"ta:c\n\n"])))
    ['a\nb', 'c']
    """
    rest, data = b"", []
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" ").decode())
            elif not line and data:
                yield "\n".join(data)
                data = []
