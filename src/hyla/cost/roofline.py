"""Seconds, batches and prices: the work of a call on a group of devices.

An operator takes as long as its FLOPs or its bytes need, whichever is more, at the rates that its kind reaches; a call
takes the sum. A group of N devices holds and computes 1/N of everything each. It adds the cheaper of two exchanges:
the stream reduced among all devices after every sublayer (tensor parallel), or, with at least N sequences, rows sent to
their experts and back (data parallel mixers, expert parallel experts).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from hyla.cost.call import Arithmetic, Step, Work, decode, prefill
from hyla.cost.device import Device
from hyla.cost.inventory import element_bytes
from hyla.cost.memory import model_memory
from hyla.cost.parameters import weight_bytes
from hyla.cost.work import step_work
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig, MoEConfig

USABLE_MEMORY = 0.90
"""Part of a device's memory for weights and caches; the rest is for activations and the runtime."""
MOST_SEQUENCES = 1024
"""Sequences in a batch unless the caller allows more: engines stop about there."""
LINK_LATENCY_SECONDS = 10e-6
"""Of one exchange among the devices of a group."""
SECONDS_PER_HOUR = 3600.0


def work_seconds(work: Work, device: Device, weights: str, num_devices: int = 1) -> tuple[float, str]:
    """Time of one operator, and what bounds it: "compute", "weights", "cache", "activations" or "overhead"."""
    dtype = "fp32" if work.is_fp32 or weights == "fp32" else "bf16"
    if dtype == "bf16" and weights == "fp8" and work.operator in ("projection", "experts"):
        dtype = "fp8"
    rate = device.rate(work.operator, work.kind, dtype, is_decode=work.is_decode)
    compute, memory = (part / num_devices for part in rate.parts(work.flops, work.nbytes))
    busy = compute + memory if rate.adds_up else max(compute, memory)
    overhead = work.calls * rate.overhead_seconds
    parts = {"weights": work.weight_bytes, "cache": work.cache_bytes, "activations": work.activation_bytes}
    bound = "compute" if compute >= memory else max(parts, key=parts.__getitem__)
    return overhead + busy, "overhead" if overhead > busy else bound


@dataclass(frozen=True)
class StepTime:
    """Time of one call and where it goes."""

    seconds: float
    by_operator: dict[str, float]
    by_bound: dict[str, float]

    @property
    def bound(self) -> str:
        """What takes most of the time."""
        return max(self.by_bound, key=self.by_bound.__getitem__)


def step_time(
    works: Iterable[Work], device: Device, weights: str, num_devices: int = 1, links: float = 0.0
) -> StepTime:
    """links: seconds on the links between the devices."""
    by_operator: dict[str, float] = {}
    by_bound = {"links": links} if links else {}
    for work in works:
        seconds, bound = work_seconds(work, device, weights, num_devices)
        by_operator[work.operator] = by_operator.get(work.operator, 0.0) + seconds
        by_bound[bound] = by_bound.get(bound, 0.0) + seconds
    return StepTime(links + sum(by_operator.values()), by_operator, by_bound)


@dataclass(frozen=True)
class Serving:
    """One model on a group of equal devices."""

    config: ModelConfig
    device: Device
    num_devices: int = 1
    weights: str = "bf16"
    arithmetic: Arithmetic | None = None
    """None: the device's own."""
    most_sequences: int = MOST_SEQUENCES

    def __post_init__(self):
        if self.num_devices < 1:
            raise ConfigError(f"{self.num_devices} devices: give at least one")

    @property
    def chosen_arithmetic(self) -> Arithmetic:
        """The one that is meant."""
        return self.arithmetic or self.device.arithmetic

    @cached_property
    def weight_bytes(self) -> float:
        return weight_bytes(self.config, self.weights)

    @cached_property
    def _memory(self):
        return model_memory(self.config, element_bytes(self.weights))

    @property
    def devices_needed(self) -> int:
        """The fewest devices that hold the weights."""
        return -(-int(self.weight_bytes) // int(USABLE_MEMORY * self.device.memory_bytes))

    def cache_bytes(self, context_tokens: int) -> int:
        """One sequence: resident here, or as published, as the arithmetic goes."""
        memory = self._memory
        ours = self.chosen_arithmetic == "hyla"
        return memory.resident_bytes(context_tokens) if ours else memory.published_bytes(context_tokens)

    def largest_batch(self, context_tokens: int) -> int:
        """Sequences of that length whose caches fit beside the weights; 0: the weights, or one sequence, do not."""
        free = self.num_devices * USABLE_MEMORY * self.device.memory_bytes - self.weight_bytes
        return max(0, min(self.most_sequences, int(free // self.cache_bytes(context_tokens))))

    def time(self, step: Step) -> StepTime:
        """One forward call."""
        works = step_work(self.config, step, weights=self.weights, arithmetic=self.chosen_arithmetic)
        return step_time(works, self.device, self.weights, self.num_devices, self._link_seconds(step))

    def _link_seconds(self, step: Step) -> float:
        if self.num_devices == 1:
            return 0.0
        row = self.config.hidden_dim * element_bytes(self.weights)
        sent = 2 * step.num_rows * row * (self.num_devices - 1) / self.num_devices
        reduced = len(self.config.sublayers) * self._one_exchange(sent)
        visited = [
            sub.module.num_experts_per_token for sub in self.config.sublayers if isinstance(sub.module, MoEConfig)
        ]
        if step.num_sequences < self.num_devices or not visited:
            return reduced
        own_rows = step.num_rows / self.num_devices
        return min(reduced, sum(2 * self._one_exchange(own_rows * row * count) for count in visited))

    def _one_exchange(self, nbytes: float) -> float:
        return LINK_LATENCY_SECONDS + nbytes / self.device.link_bytes_per_second

    def first_token_seconds(self, prompt_tokens: int) -> float:
        """Reading a prompt of that length, alone."""
        return self.time(prefill(prompt_tokens)).seconds

    def token_seconds(self, context_tokens: int, num_sequences: int = 1) -> float:
        """One decoded token of every sequence at that context."""
        return self.time(decode(context_tokens, num_sequences)).seconds

    def tokens_per_second(self, context_tokens: int, num_sequences: int) -> float:
        """Decoded tokens of all sequences."""
        return num_sequences / self.token_seconds(context_tokens, num_sequences)

    def price_per_million_tokens(self, context_tokens: int, price_per_device_hour: float) -> float | None:
        """Of decoded tokens at the largest batch, in the price's currency; None where nothing fits."""
        batch = self.largest_batch(context_tokens)
        if batch == 0:
            return None
        per_second = self.num_devices * price_per_device_hour / SECONDS_PER_HOUR
        return 1e6 * per_second / self.tokens_per_second(context_tokens, batch)

    def price_per_task(self, prompt_tokens: int, output_tokens: int, price_per_device_hour: float) -> float | None:
        """Reading a prompt and decoding an answer at the largest batch for their sum; None where nothing fits."""
        whole = prompt_tokens + output_tokens
        batch = self.largest_batch(whole)
        if batch == 0:
            return None
        middle = prompt_tokens + max(1, output_tokens // 2)
        decoding = output_tokens * self.token_seconds(middle, batch) / batch
        per_second = self.num_devices * price_per_device_hour / SECONDS_PER_HOUR
        return per_second * (self.first_token_seconds(prompt_tokens) + decoding)


def check_price(price_per_device_hour: float) -> float:
    """The price. Raises ConfigError for a negative or missing one."""
    if not price_per_device_hour >= 0:
        raise ConfigError(f"price {price_per_device_hour!r} per device-hour must be zero or more")
    return price_per_device_hour
