"""What is requested, and when: everything is drawn before the first request, from one seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyla.models.config import Config, Count

WORDS = (  # noqa: SIM905
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city name team minute idea body back parent face level office door"
).split()
"""A prompt of text has about one token for each word."""


class Lengths(Config):
    """A distribution of lengths, in tokens."""

    kind: Literal["constant", "uniform", "exponential", "lognormal"] = "constant"
    mean: Count = 256
    spread: Annotated[float, Field(ge=0, le=4)] = 0.5
    """uniform: half the width, as a share of the mean (at most 1); lognormal: sigma of the logarithm."""
    longest: Count = 1 << 20
    """What is drawn longer is cut to this."""

    @model_validator(mode="after")
    def _check_width(self):
        if self.kind == "uniform" and self.spread > 1:
            raise ValueError("a uniform distribution spreads over at most 1, the whole mean")
        return self

    def draw(self, source: random.Random) -> int:
        """A length of at least 1."""
        if self.kind == "uniform":
            value = self.mean * (1 + self.spread * source.uniform(-1, 1))
        elif self.kind == "exponential":
            value = source.expovariate(1 / self.mean)
        elif self.kind == "lognormal":
            # So that the mean of the distribution, not its median, is `mean`.
            value = source.lognormvariate(math.log(self.mean) - self.spread**2 / 2, self.spread)
        else:
            value = self.mean
        return min(max(round(value), 1), self.longest)


class Workload(Config):
    """What to send. The same workload and seed is the same requests at the same times."""

    num_requests: Count = 64
    arrival: Literal["closed", "poisson", "constant"] = "closed"
    """closed: `concurrency` clients, each sending its next request when the last one is answered. poisson, constant:
    requests arrive `rate` times a second whatever the server does, as the users of a public service do."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Requests per second of an open arrival process."""
    concurrency: Count = 8
    """Clients of the closed loop."""
    prompt: Lengths = Lengths(mean=256)
    answer: Lengths = Lengths(mean=64)
    prefix_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of every prompt, from its start, that it has in common with others."""
    num_prefixes: Count = 1
    """Different common beginnings; each prompt has one of them."""
    vocab_size: Count | None = None
    """Send token ids below this instead of words, so that lengths are exact; None: text."""
    num_warmup: Annotated[int, Field(ge=0)] = 0
    """Requests that are sent before and not counted."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Planned:
    """A request of the load test, and when it is sent."""

    at_seconds: float
    """After the start; 0 in a closed loop."""
    prompt: str | tuple[int, ...]
    max_tokens: int
    num_shared: int
    """Words or ids that are a common beginning."""


def make_plan(workload: Workload) -> tuple[list[Planned], list[Planned]]:
    """(warm-up, requests). Lengths, contents and arrivals have sources of their own: changing one keeps the others."""
    count = workload.num_requests + workload.num_warmup
    lengths, contents, arrivals = (
        random.Random(f"{workload.seed} {name}") for name in ("lengths", "contents", "times")
    )
    sizes = [(workload.prompt.draw(lengths), workload.answer.draw(lengths)) for _ in range(count)]
    longest = max(size for size, _ in sizes)
    prefixes = [_content(workload, contents, longest) for _ in range(workload.num_prefixes)]
    times = [0.0] * workload.num_warmup + _arrivals(workload, arrivals)
    planned = []
    for at, (size, answer) in zip(times, sizes):
        shared = round(size * workload.prefix_share)
        content = [*contents.choice(prefixes)[:shared], *_content(workload, contents, size - shared)]
        prompt = " ".join(content) if workload.vocab_size is None else tuple(content)
        planned.append(Planned(at, prompt, answer, shared))
    return planned[: workload.num_warmup], planned[workload.num_warmup :]


def _content(workload: Workload, source: random.Random, size: int) -> Sequence:
    return source.choices(WORDS if workload.vocab_size is None else range(workload.vocab_size), k=size)


def _arrivals(workload: Workload, source: random.Random) -> list[float]:
    """Times of arrival, ascending."""
    if workload.arrival == "closed":
        return [0.0] * workload.num_requests
    if workload.arrival == "constant":
        return [n / workload.rate for n in range(workload.num_requests)]
    now, times = 0.0, []
    for _ in range(workload.num_requests):
        times.append(now)
        now += source.expovariate(workload.rate)
    return times
