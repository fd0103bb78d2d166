"""One streamed request to an OpenAI server, with the time of every piece."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx

from hyla.loadtest.plan import Planned


@dataclass
class Sample:
    """What became of one request. Times are seconds after the start of the run."""

    sent: float
    late: float = 0.0
    """How much later than planned it was sent, because this program was busy."""
    pieces: list[float] = field(default_factory=list)
    """When a piece of the answer came."""
    ended: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    accepted_drafts: int = 0
    rejected_drafts: int = 0
    """Drafts that the server verified and found right, and wrong; servers without speculation tell none."""
    error: str | None = None
    """Such as "status 503" or "timeout"; None: it was answered."""

    @property
    def first_seconds(self) -> float:
        """Seconds from sending to the first piece."""
        return self.pieces[0] - self.sent

    @property
    def per_token_seconds(self) -> float | None:
        """Seconds between tokens, on average; None for an answer of one token."""
        if self.completion_tokens < 2:
            return None
        return (self.pieces[-1] - self.pieces[0]) / (self.completion_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece and the next."""
        return [later - earlier for earlier, later in zip(self.pieces, self.pieces[1:])]


class Target:
    """A model behind an OpenAI server.

    is_chat: use /v1/chat/completions, not /v1/completions. ignores_eos: ask for exactly max_tokens tokens, an extension
    that most engines have.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        model: str,
        *,
        is_chat: bool = False,
        ignores_eos: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.client, self.model, self.is_chat, self.ignores_eos = client, model, is_chat, ignores_eos
        self.clock = clock

    def body(self, planned: Planned) -> dict:
        fields = {
            "model": self.model,
            "max_tokens": planned.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignores_eos:
            fields["ignore_eos"] = True
        if self.is_chat:
            return {**fields, "messages": [{"role": "user", "content": planned.prompt}]}
        return {**fields, "prompt": planned.prompt}

    async def send(self, planned: Planned, start: float) -> Sample:
        """Ask and read the whole answer; whatever goes wrong is told in the sample."""
        sample = Sample(sent=self.clock() - start)
        try:
            await self._read(planned, sample, start)
        except httpx.TimeoutException:
            sample.error = "timeout"
        except httpx.HTTPError as error:
            sample.error = f"connection: {type(error).__name__}"
        except (ValueError, KeyError, TypeError, AttributeError):
            sample.error = "not an OpenAI answer"
        sample.ended = self.clock() - start
        if sample.error is None and not sample.pieces:
            sample.error = "empty answer"
        return sample

    async def _read(self, planned: Planned, sample: Sample, start: float) -> None:
        path = "chat/completions" if self.is_chat else "completions"
        async with self.client.stream("POST", path, json=self.body(planned)) as response:
            if response.is_error:
                sample.error = f"status {response.status_code}"
                return
            async for data in _events(response.aiter_bytes()):
                now = self.clock() - start
                if data == b"[DONE]":
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    sample.error = "failed while streaming"
                    return
                _note(sample, chunk, now)


def _note(sample: Sample, chunk: dict, now: float) -> None:
    usage = chunk.get("usage")
    if usage:
        sample.prompt_tokens = usage["prompt_tokens"]
        sample.completion_tokens = usage["completion_tokens"]
        sample.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        details = usage.get("completion_tokens_details") or {}
        sample.accepted_drafts = details.get("accepted_prediction_tokens") or 0
        sample.rejected_drafts = details.get("rejected_prediction_tokens") or 0
    for choice in chunk.get("choices", []):
        delta = choice.get("delta") or {}
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content") or choice.get("finish_reason"):
            sample.pieces.append(now)


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Data lines of server-sent events."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
