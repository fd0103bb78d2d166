"""Ways out of the zero gap. Each is the engine or the trainer as others have it, priced by the same report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from hyla.align.rounding import rounded
from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.layers.head import Head
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.weights import FP8Tensor, quantise


class Way:
    """No way out: the engine as it serves, and the trainer as it trains. Ways change some of it."""

    name = "exact"
    what = "the engine as it serves"
    is_timed = True
    """Whether its speed means something beside the exact engine's."""
    changes_engine = True
    """Whether other answers may be sampled; else the exact engine's are scored again."""
    changes_states = False
    """Whether `after_step` does something."""

    def unavailable(self, model: Model) -> str | None:
        """Why there is nothing to measure with such a model here; None: there is."""
        return None

    def options(self) -> dict:
        """Of the engine that samples, beside those of `sampling.SERVING`."""
        return {}

    def change(self, model: Model) -> None:
        """Change the engine's model, which is its own and not packed yet."""

    def scoring(self) -> AbstractContextManager[None]:
        """Around the trainer's forwards, and around an engine that is compared with the exact one."""
        return nullcontext()

    def after_step(self, batch: Batch, specs: Sequence[CacheSpec], caches: Sequence[LayerCache]) -> None:
        """Change what the caches of a step's sequences have."""


EXACT = Way()


class OtherModel(Way):
    """Another model scores what ours sampled."""

    changes_engine, is_timed = False, False

    def __init__(self, name: str):
        self.name, self.what = "against", f"{name} scores what this model's engine sampled"


class OtherEngine(Way):
    """Another engine's answers, which a file holds."""

    def __init__(self, name: str):
        self.name, self.what = "against", f"the answers and log-probabilities of {name}, scored by this model's trainer"


class RoundedStates(Way):
    """The anchors of recurrent layers, as a cache of a narrower dtype would give them back.

    They are rounded in place after each step, and a step reads at most one chunk, so that every anchor is rounded
    before it is read again. It measures the numerics: nothing is saved, and nothing is faster.
    """

    is_timed, changes_states = False, True

    def __init__(self, dtype: torch.dtype, seed: int, *, by_chance: bool):
        self._dtype = dtype
        self._generator = torch.Generator().manual_seed(seed) if by_chance else None
        short = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
        self.name = f"state-{short}-stochastic" if by_chance else f"state-{short}"
        how = "by chance" if by_chance else "to the nearest"
        self.what = f"states of recurrent layers in {short}, rounded {how} once per chunk of {CHUNK} tokens"

    def unavailable(self, model: Model) -> str | None:
        return _no_states(model)

    def options(self) -> dict:
        return {"prefill_chunk": CHUNK}

    def after_step(self, batch: Batch, specs: Sequence[CacheSpec], caches: Sequence[LayerCache]) -> None:
        slots = list(batch.cached_slots)
        for spec, cache in zip(specs, caches):
            for name in _anchors(spec):
                cache[name][slots] = rounded(cache[name][slots], self._dtype, self._generator)


def _anchors(spec: CacheSpec) -> list[str]:
    return [tensor.name for tensor in spec.slot_tensors if tensor.role == "anchor"]


def _no_states(model: Model) -> str | None:
    has_states = any(_anchors(spec) for spec in model.cache_specs())
    return None if has_states else "no layer of this model keeps a recurrent state"


class NarrowHead(Head):
    """A head whose hidden states, weight and logits are bf16, as engines have it that keep all of a model in bf16."""

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        return super().logits(hidden_RD.to(torch.bfloat16)).to(torch.bfloat16).to(torch.float32)


class Bf16Head(Way):
    name = "head-bf16"
    what = "hidden states, weight and logits of the engine's head in bf16"
    is_timed = False

    def change(self, model: Model) -> None:
        vocab, dim = model.head.weight.shape
        weight = model.head.weight.detach().to(torch.bfloat16)
        model.head = NarrowHead(dim, vocab)
        model.head.weight = torch.nn.Parameter(weight, requires_grad=False)


class FP8Products(Way):
    name = "fp8"
    what = (
        "the engine's matrices in FP8 (e4m3, a scale for each block of 128 x 128), but for embedding, router and head"
    )

    def unavailable(self, model: Model) -> str | None:
        weights = NamedWeights(model)
        if any(weights.fp8(name) is not None for name in weights.shapes):
            return "this model's matrices are FP8 already, on both sides"
        return None if any(map(weights.may_be_quantised, weights.shapes)) else "no matrix of this model can be FP8"

    def change(self, model: Model) -> None:
        weights = NamedWeights(model)
        for name in list(weights.shapes):
            if weights.may_be_quantised(name):
                plain = weights.read(name)
                weights.assign_fp8(name, FP8Tensor(*quantise(plain), plain.dtype))


class OtherBackend(Way):
    """The trainer's side: a cache that one backend has filled is not continued by another."""

    changes_engine = False

    def __init__(self, backend: str):
        self._backend = self.name = backend
        self.what = f"the trainer computes with the backend {backend!r}, the engine as it is"

    def unavailable(self, model: Model) -> str | None:
        computes = backends.on(model.device)
        return f"the engine computes with {computes!r} already" if computes == self._backend else None

    def scoring(self) -> AbstractContextManager[None]:
        return backends.using(self._backend)


class OtherOption(Way):
    """An option of the engine that is not exact."""

    def __init__(self, name: str, what: str, option: str, value, *, is_timed: bool = False):
        self.name, self.what, self.is_timed = name, what, is_timed
        self._option, self._value = option, value

    def options(self) -> dict:
        return {self._option: self._value}


class RoundedSnapshots(OtherOption):
    """States that the prefix cache keeps, rounded once; what is computed goes on in fp32 from there."""

    is_timed = False

    def __init__(self, name: str, dtype: str):
        super().__init__(name, f"states that the prefix cache keeps in {dtype}", "snapshot_dtype", dtype)

    def unavailable(self, model: Model) -> str | None:
        return _no_states(model)


def _state(dtype: torch.dtype, *, by_chance: bool) -> Callable[[int], Way]:
    return lambda seed: RoundedStates(dtype, seed, by_chance=by_chance)


WAYS: dict[str, Callable[[int], Way]] = {
    "state-bf16": _state(torch.bfloat16, by_chance=False),
    "state-bf16-stochastic": _state(torch.bfloat16, by_chance=True),
    "state-fp16": _state(torch.float16, by_chance=False),
    "state-fp16-stochastic": _state(torch.float16, by_chance=True),
    "snapshots-bf16": lambda seed: RoundedSnapshots("snapshots-bf16", "bfloat16"),
    "snapshots-int8": lambda seed: RoundedSnapshots("snapshots-int8", "int8"),
    "head-bf16": lambda seed: Bf16Head(),
    "fp8": lambda seed: FP8Products(),
    "fast": lambda seed: OtherOption("fast", "the engine with numerics='fast'", "numerics", "fast", is_timed=True),
    "torch": lambda seed: OtherBackend("torch"),
}
"""By name; made anew for each measurement, from the seed of its chance."""


def way_of(name: str, seed: int = 0) -> Way:
    """Raises ConfigError for an unknown name."""
    if name not in WAYS:
        raise ConfigError(f"--way {name!r} is unknown; there are {', '.join(WAYS)}")
    return WAYS[name](seed)
