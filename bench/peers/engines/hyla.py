"""Hyla through its public engine; at a filled depth the model over a cache of its own."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

from bench.machine import commit_of

SHORT = 256
"""Tokens for which each sequence of a batch has room, beside one long context."""


class Hyla:
    def load(self, model: str, *, threads: int, length: int, sequences: int) -> str:
        import torch

        import hyla
        from bench.hyla_names import keep_freed_memory
        from hyla.cost.memory import model_memory
        from hyla.engine import Engine

        keep_freed_memory()
        torch.set_num_threads(threads)
        self.torch, self.model, self.names = torch, hyla.load(model, dtype=torch.bfloat16).eval(), count()
        needed = model_memory(self.model.config, 2).resident_bytes
        memory = 3 * (needed(length) + sequences * needed(SHORT))
        sizes = {"memory": memory, "max_num_sequences": sequences, "context_len": length}
        self.engine = Engine(self.model, prefix_cache=False, **sizes)
        self.running = None
        return f"hyla {commit_of(Path(hyla.__file__).parent)}"

    def _params(self, answer: int, **fields):
        from hyla.engine import SamplingParams

        return SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True, seed=1, **fields)

    def best(self, prompt: list[int], count: int) -> list[int]:
        (done,) = self.engine.generate([prompt], self._params(1, logprobs=count))
        (found,) = done.logprobs
        return [token for token, _ in found.top]

    def prefill(self, prompt: list[int]) -> float:
        start = time.perf_counter()
        self.engine.generate([prompt], self._params(1))
        return time.perf_counter() - start

    def start(self, prompt: list[int]) -> float:
        self._drop()
        from hyla.engine import Request

        name = f"stream-{next(self.names)}"
        start = time.perf_counter()
        self.engine.add(Request(name, tuple(prompt), self._params(self.engine.context_len - len(prompt) - 1)))
        while not any(event.token_ids for event in self.engine.step()):
            pass
        self.running = name
        return time.perf_counter() - start

    def fill(self, depth: int) -> str:
        self._drop()
        self.running = Filled(self.model, depth)
        return "caches of random numbers"

    def decode(self, steps: int) -> list[float]:
        step = self.running.step if isinstance(self.running, Filled) else self._step
        found = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
        return found

    def _step(self) -> None:
        if not any(event.token_ids for event in self.engine.step()):
            raise ValueError("the running sequence gave no token")

    def batch(self, prompts: list[list[int]], answer: int) -> float:
        self._drop()
        start = time.perf_counter()
        self.engine.generate(prompts, self._params(answer))
        return time.perf_counter() - start

    def _drop(self) -> None:
        if isinstance(self.running, str):
            self.engine.cancel(self.running)
            while self.engine.has_work:
                self.engine.step()
        self.running = None


class Filled:
    """A sequence at a depth that nobody read up to."""

    def __init__(self, model, depth: int):
        import torch

        from hyla.caches import Cache

        self.torch, self.model, self.token = torch, model, 5
        self.cache = Cache(model.cache_specs(), num_pages=depth // 64 + 16, num_slots=1)
        self.sequence = self.cache.open()
        for layer in self.cache.layers:
            for tensor in layer.values():
                tensor.normal_()
        self.cache.reserve([(self.sequence, depth)])
        self.sequence.length = self.sequence.written = depth

    def step(self) -> None:
        with self.torch.inference_mode():
            batch = self.cache.batch([(self.sequence, 1)])
            hidden = self.model(self.torch.tensor([self.token]), batch, self.cache.layers)
            self.token = int(self.model.head_logits(hidden).argmax())
            self.cache.commit(self.sequence, 1)


ENGINE = Hyla
