"""What `hyla chat` talks to: a model in this process, or a server with OpenAI's API. Both stream their answers."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Any, Protocol

from hyla.errors import ConfigError, HylaError, RequestError

Message = dict[str, str]
Prompt = list[Message] | str
"""A conversation, or a text to go on with."""


@dataclass(frozen=True)
class Abilities:
    """What a model is for."""

    is_chat: bool = True
    """Whether it has a chat template; without one it only goes on with texts."""
    sampling: dict[str, float] = field(default_factory=dict)
    """How it is best drawn from, by `SamplingParams`' names."""
    examples: tuple[str, ...] = ()
    """Beginnings that it can go on with."""


def _abilities_of(entry: dict) -> Abilities:
    """From an entry of /v1/models; other servers than ours do not say, so their models are taken for ones that talk."""
    card = entry.get("card") or {}
    return Abilities(entry.get("is_chat", True), dict(card.get("sampling") or {}), tuple(card.get("examples") or ()))


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

    @property
    def abilities(self) -> Abilities: ...

    def stream(self, prompt: Prompt, settings: dict[str, Any]) -> Generator[Piece, None, None]:
        """Pieces of the answer, or of what follows a text. Closing the generator stops it. Raises HylaError."""
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
    if (adapter := (options or {}).get("adapter")) is not None:
        raise ConfigError(f"--adapter {adapter}: {target} has its model already; give the adapter to its `hyla serve`")
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    base = target.rstrip("/").removesuffix("/v1") + "/v1/"
    # An answer may take its time to begin; only connecting must be quick.
    timeout = httpx.Timeout(None, connect=10.0)
    with httpx.Client(base_url=base, headers=headers, timeout=timeout) as client:
        yield RemoteModel(client, name)


@contextmanager
def _open_folder(folder: str, options: dict[str, Any]) -> Iterator[LocalModel]:
    from hyla.engine.waiting_threads import load_torch

    load_torch()
    import hyla
    from hyla.adapters import tokenizer_beside
    from hyla.checkpoints import open_checkpoint, resolve
    from hyla.checkpoints.names import find_known
    from hyla.cli.console import loading_bar
    from hyla.engine import EngineThread
    from hyla.engine.threads import default_threads
    from hyla.server.cards import served_card

    found = resolve(folder, options.pop("revision", None))
    checkpoint = open_checkpoint(found)
    tokenizer = tokenizer_beside(checkpoint, options.get("adapter")) or checkpoint.tokenizer()
    if tokenizer.chat_template is not None:
        tokenizer.chat_template.start()
    card = served_card(checkpoint, find_known(folder))
    advice = card.sampling.model_dump(exclude_none=True)
    abilities = Abilities(tokenizer.chat_template is not None, advice, card.examples)
    options["threads"] = options.get("threads") or default_threads()
    with loading_bar() as progress:
        engine = hyla.Engine(found, tokenizer=tokenizer, **options, max_num_sequences=1, progress=progress)
    thread = EngineThread(engine)
    thread.start()
    try:
        yield LocalModel(thread, open_checkpoint(folder).name, abilities)
    finally:
        thread.stop()


class LocalModel:
    """An engine on a thread of its own, so that Ctrl-C never interrupts one of its steps."""

    def __init__(self, thread, name: str, abilities: Abilities):
        self.thread, self.name, self.abilities = thread, name, abilities
        self._numbers = count()

    def stream(self, prompt: Prompt, settings: dict[str, Any]) -> Generator[Piece, None, None]:
        from hyla.engine import Request, SamplingParams

        tokenizer = self.thread.engine.tokenizer
        ids = tuple(tokenizer.encode(prompt) if isinstance(prompt, str) else tokenizer.encode_chat(prompt))
        request = Request(f"chat-{next(self._numbers)}", ids, SamplingParams(**settings))
        events: SimpleQueue = SimpleQueue()
        self.thread.submit(request, events.put)
        try:
            while True:
                event = events.get()
                if event.finish_reason == "error":
                    raise HylaError(event.error or "the engine failed")
                yield _piece(event)
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
    """A server with OpenAI's API. name: of the model; None: the server's first one that can talk, else its first."""

    def __init__(self, client, name: str | None = None):
        self.client = client
        with self._failures():
            self._served = {entry["id"]: _abilities_of(entry) for entry in self._get("models")["data"]}
        self.names = list(self._served)
        if not self.names:
            raise HylaError(f"{client.base_url} serves no model")
        self.name = next((name for name, own in self._served.items() if own.is_chat), self.names[0])
        if name is not None:
            self.choose(name)

    def choose(self, name: str) -> None:
        """Talk to another of the server's models."""
        if name not in self.names:
            raise RequestError(f"model {name!r} is not served; there are {', '.join(self.names)}", "model")
        self.name = name

    @property
    def abilities(self) -> Abilities:
        """Of the chosen model."""
        return self._served[self.name]

    def _get(self, path: str) -> dict:
        with self._failures():
            response = self.client.get(path)
            self._check(response)
            return response.json()

    def stream(self, prompt: Prompt, settings: dict[str, Any]) -> Generator[Piece, None, None]:
        path, name = ("completions", "prompt") if isinstance(prompt, str) else ("chat/completions", "messages")
        body = {"model": self.name, name: prompt, "stream": True, "stream_options": {"include_usage": True}}
        with self._failures(), self.client.stream("POST", path, json={**body, **settings}) as response:
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
            text=delta.get("content") or choice.get("text") or "",
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
