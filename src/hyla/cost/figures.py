"""All figures of some models as plain values, units in every name: what `hyla cost` prints, writes and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from hyla.cost.call import Arithmetic, Step, decode, prefill
from hyla.cost.device import Device
from hyla.cost.inventory import WEIGHT_DTYPES, element_bytes
from hyla.cost.memory import model_memory
from hyla.cost.parallel import Split, rank_bytes
from hyla.cost.parameters import count_parameters, weight_bytes
from hyla.cost.roofline import MOST_SEQUENCES, Serving, check_price
from hyla.cost.target import Target
from hyla.cost.training import (
    executed_flops_per_token,
    forward_flops_per_token,
    tokens_for_budget,
    train_flops_per_token,
    train_hours,
    training_memory,
)
from hyla.cost.work import arithmetic_intensity, by_kind, step_work
from hyla.errors import ConfigError
from hyla.models.pattern import compress, label

DEFAULT_CONTEXTS = tuple(2**power for power in (10, 12, 15, 17, 20))


@dataclass(frozen=True)
class Question:
    """What is asked about every model."""

    contexts: tuple[int, ...] = DEFAULT_CONTEXTS
    """Tokens."""
    weights: str = "bf16"
    arithmetic: Arithmetic | None = None
    """None: the device's own; "usual" without a device."""
    device: Device | None = None
    num_devices: int = 1
    most_sequences: int = MOST_SEQUENCES
    price_per_device_hour: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    split: Split | None = None
    """Per-rank bytes under this split."""
    train_length: int | None = None
    """Training figures at this sequence length."""
    train_tokens: float | None = None
    budget_flops: float | None = None

    def __post_init__(self):
        for context in self.contexts:
            if context < 1:
                raise ConfigError(f"a context of {context} tokens: give at least one")
        if self.weights not in WEIGHT_DTYPES:
            raise ConfigError(f"unknown weights {self.weights!r}; there are {', '.join(WEIGHT_DTYPES)}")
        if self.price_per_device_hour is not None:
            check_price(self.price_per_device_hour)
        if self.device is None and self.price_per_device_hour is not None:
            raise ConfigError("a price needs a device; give one with --device")
        for name in ("prompt_tokens", "output_tokens", "train_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} must be at least 1")

    @property
    def chosen_arithmetic(self) -> Arithmetic:
        """The one that is meant."""
        return self.arithmetic or (self.device.arithmetic if self.device else "usual")

    def resolved(self) -> Question:
        """With the arithmetic that is meant."""
        return replace(self, arithmetic=self.chosen_arithmetic)


def target_report(target: Target, question: Question) -> dict:
    """Everything about one model."""
    question, config = question.resolved(), target.config
    mixer_kinds = [mixer.kind for mixer in config.mixers]
    channel = [sub.module.kind for sub in config.sublayers if not sub.is_mixer]
    longest = max(question.contexts)
    warnings = []
    if longest > config.max_len:
        warnings.append(
            f"{target.name} is declared for {config.max_len:,} tokens; figures beyond that are arithmetic only"
        )
    report = {
        "name": target.name,
        "family": config.family,
        "mixers": compress([label(kind) for kind in mixer_kinds]),
        "channel_mixers": compress([label(kind) for kind in channel]),
        "max_context_tokens": config.max_len,
        "weights": question.weights,
        "arithmetic": question.arithmetic,
        "parameters": _parameters(target),
        "weight_bytes": {dtype: weight_bytes(config, dtype) for dtype in WEIGHT_DTYPES},
        "contexts": [context_figures(target, question, context) for context in question.contexts],
    }
    report |= _optional(target, question, warnings)
    return report | {"warnings": warnings}


def _parameters(target: Target) -> dict:
    count = count_parameters(target.config)
    return {
        **asdict(count),
        "without_embeddings": count.without_embeddings,
        "active_without_embeddings": count.active_without_embeddings,
    }


def context_figures(target: Target, question: Question, context: int) -> dict:
    """One model at one context length."""
    config, memory = target.config, model_memory(target.config, element_bytes(question.weights))
    states = memory.state_bytes + memory.conv_bytes
    kv = memory.kv_bytes_per_token * context
    cache = memory.published_bytes(context)
    figures = {
        "context_tokens": context,
        "kv_bytes": kv,
        "window_bytes": cache - kv - states,
        "state_bytes": states,
        "cache_bytes": cache,
        "resident_cache_bytes": memory.resident_bytes(context),
        **_work_figures("prefill", config, prefill(context), question),
        **_work_figures("decode", config, decode(context), question),
    }
    if question.device is not None:
        figures |= _device_figures(serving(target, question), context, question.price_per_device_hour)
    return figures


def _work_figures(name: str, config, step: Step, question: Question) -> dict:
    works = step_work(config, step, weights=question.weights, arithmetic=question.chosen_arithmetic)
    kinds = by_kind(works)
    return {
        f"{name}_flops": sum(work.flops for work in works),
        f"{name}_bytes": sum(work.nbytes for work in works),
        f"{name}_flops_per_byte": arithmetic_intensity(works),
        f"{name}_flops_by_kind": {kind: flops for kind, (flops, _) in kinds.items()},
        f"{name}_bytes_by_kind": {kind: nbytes for kind, (_, nbytes) in kinds.items()},
    }


def serving(target: Target, question: Question) -> Serving:
    """The model on the question's devices. Raises ConfigError where it names none."""
    if question.device is None:
        raise ConfigError("times need a device; give one with --device")
    return Serving(
        target.config,
        question.device,
        question.num_devices,
        question.weights,
        question.arithmetic,
        question.most_sequences,
    )


def _device_figures(on: Serving, context: int, price: float | None) -> dict:
    reading, alone = on.time(prefill(context)), on.time(decode(context))
    batch = on.largest_batch(context)
    full = on.time(decode(context, batch)) if batch else None
    figures = {
        "first_token_seconds": reading.seconds,
        "first_token_bound": reading.bound,
        "token_seconds": alone.seconds,
        "token_bound": alone.bound,
        "tokens_per_second": 1.0 / alone.seconds,
        "largest_batch": batch,
        "token_seconds_at_largest_batch": full and full.seconds,
        "token_bound_at_largest_batch": full and full.bound,
        "tokens_per_second_at_largest_batch": full and batch / full.seconds,
    }
    if price is not None:
        figures["price_per_million_tokens"] = on.price_per_million_tokens(context, price)
        figures["price_per_million_prompt_tokens"] = (
            on.num_devices * price / 3600.0 * reading.seconds / context * 1e6 if batch else None
        )
    return figures


def _optional(target: Target, question: Question, warnings: list[str]) -> dict:
    """Device, task, ranks and training, where they are asked for."""
    config, found = target.config, {}
    if question.device is not None:
        on = serving(target, question)
        found["device"] = {
            "name": question.device.name,
            "num_devices": question.num_devices,
            "devices_needed_for_weights": on.devices_needed,
        }
        if on.devices_needed > question.num_devices:
            warnings.append(
                f"{target.name}: the weights need at least {on.devices_needed} x {question.device.name}, not "
                f"{question.num_devices}; times are those of devices with enough memory"
            )
        if question.prompt_tokens or question.output_tokens:
            found["task"] = _task(on, question)
    if question.split is not None:
        longest = max(question.contexts)
        rank = rank_bytes(config, question.split, context_tokens=longest, weights=question.weights)
        found["rank"] = {
            **asdict(question.split),
            "expert": question.split.expert_ranks,
            "num_ranks": question.split.num_ranks,
            "context_tokens": longest,
            **asdict(rank),
            "total_bytes": rank.total_bytes,
        }
    if question.train_length is not None:
        found["training"] = _training(target, question, question.train_length)
    return found


def _task(on: Serving, question: Question) -> dict:
    prompt, output = question.prompt_tokens or 1, question.output_tokens or 1
    price = question.price_per_device_hour
    alone = on.first_token_seconds(prompt) + output * on.token_seconds(prompt + max(1, output // 2))
    task = {"prompt_tokens": prompt, "output_tokens": output, "seconds_alone": alone}
    return task if price is None else task | {"price": on.price_per_task(prompt, output, price)}


def _training(target: Target, question: Question, length: int) -> dict:
    config = target.config
    memory = training_memory(config, length)
    tokens = question.train_tokens
    found = {
        "length_tokens": length,
        "forward_flops_per_token": forward_flops_per_token(config, length),
        "flops_per_token": train_flops_per_token(config, length),
        "executed_flops_per_token": executed_flops_per_token(config, length),
        "executed_flops_per_token_with_recomputation": executed_flops_per_token(config, length, recomputes=True),
        "six_n_flops_per_token": 6.0 * count_parameters(config).active_without_embeddings,
        **asdict(memory),
    }
    if question.budget_flops is not None:
        found["tokens_for_budget"] = tokens_for_budget(config, length, question.budget_flops)
        tokens = tokens or found["tokens_for_budget"]
    if tokens is not None:
        found["tokens"] = tokens
        if question.device is not None:
            where = (question.device, question.num_devices)
            found["hours"] = train_hours(config, length, tokens, *where)
            found["hours_with_recomputation"] = train_hours(config, length, tokens, *where, recomputes=True)
    return found


def csv_rows(reports: Sequence[dict]) -> tuple[list[str], list[dict]]:
    """Columns and one row for each model and context, without the splits by kind."""
    rows = [
        {"name": report["name"], **{name: value for name, value in figures.items() if not isinstance(value, dict)}}
        for report in reports
        for figures in report["contexts"]
    ]
    return list(rows[0]), rows
