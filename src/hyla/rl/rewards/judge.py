"""A model behind an OpenAI server as the judge: one chat completion a sample, and the last number of its answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
from asyncio import sleep as pause
from collections.abc import Sequence

import httpx

from hyla.errors import ConfigError
from hyla.rl.rewards.config import JudgeConfig, template_fields
from hyla.rl.rewards.judgement import Judgement, failed
from hyla.rl.rewards.messages import as_text

FIRST_WAIT_SECONDS = 1.0
"""Before the second attempt; twice as long before each further one."""
MOST_WAIT_SECONDS = 60.0
"""Before an attempt, also where the server's Retry-After asks for more."""
MOST_ANSWER_BYTES = 8 << 20
NUMBER = r"(?:(?<![\w.])-)?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


class _Refused(Exception):
    """It cannot be asked so; another attempt would be the same."""


class _Busy(Exception):
    """Another attempt may go better. seconds: how long the server wants it to wait."""

    def __init__(self, what: str, seconds: float | None = None):
        super().__init__(what)
        self.seconds = seconds


class Judge:
    """Asks for points. Raises ConfigError where the variable that holds the key is not set."""

    def __init__(self, config: JudgeConfig):
        self.config = config
        self._fields = template_fields(config.prompt)
        self._headers = {"Content-Type": "application/json"}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env)
            if not key or not key.isascii() or not key.isprintable():
                raise ConfigError(
                    f"reward.judge.api_key_env = {config.api_key_env!r}: this variable holds no key; export the "
                    "judge's key under this name, or leave api_key_env out"
                )
            self._headers["Authorization"] = f"Bearer {key}"

    def of(self, items: Sequence[tuple[str, dict]], conversations: Sequence[list[dict]]) -> list[Judgement]:
        """See `Rewards.of`. Not to be called where an event loop runs."""
        return asyncio.run(self._all(items, conversations))

    def close(self) -> None:
        """Nothing stays open between calls."""

    async def _all(self, items: Sequence[tuple[str, dict]], conversations: Sequence[list[dict]]) -> list[Judgement]:
        places = asyncio.Semaphore(self.config.concurrency)
        # Each attempt has one clock for all of it; the client's own knows single reads only.
        limits = httpx.Limits(max_connections=self.config.concurrency)
        async with httpx.AsyncClient(headers=self._headers, timeout=None, limits=limits) as client:

            async def judge(item: tuple[str, dict], messages: list[dict]) -> Judgement:
                async with places:
                    return await self._judge(client, *item, messages)

            return list(await asyncio.gather(*map(judge, items, conversations)))

    async def _judge(self, client: httpx.AsyncClient, answer: str, row: dict, messages: list[dict]) -> Judgement:
        try:
            body = {
                "model": self.config.model,
                "messages": [{"role": "user", "content": self._prompt(answer, row, messages)}],
                "temperature": 0,
            }
            # Escaped: half a character of a model is no UTF-8.
            return points(await self._answer(client, json.dumps(body).encode()), self.config.scale)
        except (_Refused, _Busy) as error:
            return failed(f"the judge {error}")

    def _prompt(self, answer: str, row: dict, messages: list[dict]) -> str:
        values = {"answer": answer, "conversation": as_text(messages)}
        for name in self._fields - values.keys():
            value = row.get(name, row.get("messages") if name == "prompt" else None)
            if value is None:
                raise _Refused(f"is to be shown {{{name}}}, which the row does not have")
            values[name] = as_text(value)
        return self.config.prompt.format_map(values)

    async def _answer(self, client: httpx.AsyncClient, body: bytes) -> str:
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, self.config.attempts + 1):
            try:
                return await self._asked(client, body)
            except _Busy as error:
                if attempt == self.config.attempts:
                    raise _Busy(f"{error} ({attempt} attempts)") from error
                await pause(min(max(wait, error.seconds or 0.0), MOST_WAIT_SECONDS))
                wait *= 2
        raise AssertionError("attempts is at least 1")

    async def _asked(self, client: httpx.AsyncClient, body: bytes) -> str:
        """The text of its answer, at one attempt."""
        seconds = self.config.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                url = self.config.base_url.rstrip("/") + "/chat/completions"
                async with client.stream("POST", url, content=body) as response:
                    data = b""
                    async for piece in response.aiter_bytes():
                        data += piece
                        if len(data) > MOST_ANSWER_BYTES:
                            raise _Refused(f"answered with more than {MOST_ANSWER_BYTES:,} bytes")
        except TimeoutError:
            raise _Busy(f"did not answer within {seconds:g} s") from None
        except httpx.TransportError as error:
            raise _Busy(f"cannot be reached: {error or type(error).__name__}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Refused(f"cannot be asked: {error}") from error
        return _content(response, data)


def _content(response: httpx.Response, data: bytes) -> str:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _Busy(f"answered with status {status}{_said(data)}", _retry_after(response))
    if status != 200:
        raise _Refused(f"answered with status {status}{_said(data)}")
    try:
        text = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _Refused("does not answer as OpenAI's API does") from error
    if not isinstance(text, str):
        raise _Refused("answered without a text; let it write more tokens")
    return text


def _said(data: bytes) -> str:
    try:
        return f": {json.loads(data)['error']['message']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) else None


def points(text: str, scale: float) -> Judgement:
    """The last number of a text, over the scale; in "8/10" and "8 out of 10" with a scale of 10 that is 8.

    >>> points("Clear, though long: 7 - 8. Score: 8/10", 10.0).reward
    0.8
    """
    of_scale = rf"(?:\s*(?:/|out of)\s*{re.escape(f'{scale:g}')}(?:\.0+)?(?!\.?[0-9]))?"
    found = re.findall(f"({NUMBER}){of_scale}", text)
    if not found:
        return failed(f"the judge gave no number: {text[-200:]!r}")
    value = float(found[-1])
    if not 0 <= value <= scale:
        return failed(f"the judge gave {value:g}, which is not within 0 and {scale:g}")
    return Judgement(value / scale, None)
