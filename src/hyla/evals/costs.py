"""What items took: tokens, seconds and FLOPs, and what a solved one costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from hyla.cost.call import Step
from hyla.cost.device import Device
from hyla.cost.roofline import SECONDS_PER_HOUR, Serving, check_price
from hyla.cost.work import step_work, total_flops
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig


class Spent(Protocol):
    """An item that was asked. tokens: of its prompt, cached_tokens of which were not computed again; seconds: of
    computing, its share of those of the items that ended with it; flops: by the cost model."""

    @property
    def tokens(self) -> int: ...

    @property
    def cached_tokens(self) -> int: ...

    @property
    def answer_tokens(self) -> int: ...

    @property
    def seconds(self) -> float: ...

    @property
    def flops(self) -> float: ...


def item_flops(
    config: ModelConfig, tokens: int, cached_tokens: int, answer_tokens: int, *, num_scored: int = 0
) -> float:
    """FLOPs of one item by the cost model, in this engine's arithmetic: the prompt's tokens that no cache had, and the
    answer's one by one. The first token of an answer comes with the prompt; the others are counted at their mean
    context, in which FLOPs are linear. num_scored: tokens of the prompt whose log-probabilities are wanted."""
    flops = total_flops(step_work(config, Step(1, cached_tokens, tokens - cached_tokens), arithmetic="hyla"))
    flops += 2.0 * max(num_scored - 1, 0) * config.hidden_dim * config.vocab_size
    decoded = answer_tokens - 1
    if decoded > 0:
        middle = ((decoded - 1) // 2, decoded // 2)  # the same, or the two beside it
        each = (total_flops(step_work(config, Step(1, tokens + n, 1), arithmetic="hyla")) for n in middle)
        flops += decoded * sum(each) / 2
    return flops


@dataclass(frozen=True)
class Price:
    """What an hour costs, in any currency: of this machine, where the measured seconds count; or of a device, where
    those count that the cost model says, each prompt read alone and whole, and answers written at its largest batch."""

    per_hour: float
    config: ModelConfig
    device: Device | None = None
    weights: str = "bf16"
    """Dtype of the weights on the device: fp32 or bf16."""

    def __post_init__(self):
        check_price(self.per_hour)

    def __call__(self, line: Spent) -> float:
        """Of one item. Raises ConfigError for one that does not fit the device."""
        if self.device is None:
            return line.seconds * self.per_hour / SECONDS_PER_HOUR
        serving = Serving(self.config, self.device, weights=self.weights)
        price = serving.price_per_task(line.tokens, max(line.answer_tokens, 1), self.per_hour)
        if price is None:
            raise ConfigError(
                f"a prompt of {line.tokens:,} tokens does not fit one {self.device.name} beside the model; give "
                "another device, or none, for the price of this machine's seconds"
            )
        return price

    @property
    def told(self) -> str:
        """Of what hours it is the price."""
        if self.device is None:
            return f"{self.per_hour:g} an hour of this machine, by the measured seconds"
        return f"{self.per_hour:g} an hour of one {self.device.name}, by the cost model's seconds"


class Stopwatch:
    """Seconds of computing. clock: seconds from anywhere."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._since = clock, clock()

    def lap(self) -> float:
        """Since the last time that this was asked, or the start."""
        since, self._since = self._since, self._clock()
        return self._since - since

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done meanwhile does not count."""
        begun = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - begun


def told_costs(spent: Sequence[Spent]) -> str:
    """All of them together, as a sentence."""
    return (
        f"In all {sum(one.tokens for one in spent):,} tokens were read, {sum(one.cached_tokens for one in spent):,} of "
        f"them from the prefix cache, and {sum(one.answer_tokens for one in spent):,} written, in "
        f"{sum(one.seconds for one in spent):,.1f} seconds, with {sum(one.flops for one in spent):.2e} FLOPs."
    )


COST_TITLES = ("tokens read", "from the cache", "written", "seconds", "FLOPs")


def cost_cells(spent: Sequence[Spent], solved: int, price: Callable[[Spent], float] | None = None) -> list[str]:
    """What all items took, for each of the `solved`, under COST_TITLES and, with a price, one more column."""
    sums = [
        (sum(one.tokens for one in spent), ",.0f"),
        (sum(one.cached_tokens for one in spent), ",.0f"),
        (sum(one.answer_tokens for one in spent), ",.0f"),
        (sum(one.seconds for one in spent), ",.2f"),
        (sum(one.flops for one in spent), ".2e"),
    ]
    if price is not None:
        sums.append((sum(price(one) for one in spent), ".3g"))
    return [format(total / solved, form) if solved else "-" for total, form in sums]
