"""Prometheus metrics: what requests saw, measured on their events, and what the engines say when they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hyla.engine import Request, TokenEvent
from hyla.engine.clock import RecentRate, monotonic
from hyla.engine.hosting.handle import EngineHandle

FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PER_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
RECENT_SECONDS = 10.0
"""Window of the rates that the page shows."""

ENGINE_STATES = ("running", "draining", "paused", "asleep", "starting")


class Recent(NamedTuple):
    """Tokens of one model, per second, of late."""

    prompt: RecentRate
    generated: RecentRate


class Children(NamedTuple):
    """The metrics of one model that are touched with every token; looking them up by label would cost as much again."""

    prompt_tokens: Counter
    generated_tokens: Counter
    first_token: Histogram
    per_token: Histogram
    recent: Recent


class Metrics:
    """The metrics of one server, in a registry of its own, so that several servers fit into one process.

    workers: by model name. Their `watch` is taken.
    """

    def __init__(self, workers: Mapping[str, EngineHandle]):
        self.workers = dict(workers)
        self.registry = CollectorRegistry()
        self.recent = {
            name: Recent(*(RecentRate(monotonic, RECENT_SECONDS) for _ in Recent._fields)) for name in self.workers
        }
        self._declare_requests()
        self.http_requests = self._counter("hyla_http_requests", "HTTP requests answered.", "route", "method", "status")
        self.registry.register(_EngineNumbers(self.workers))
        for name, worker in self.workers.items():
            worker.watch = self._watch_of(name)

    def _declare_requests(self) -> None:
        self.finished = self._counter("hyla_requests", "Finished choices, by how they ended.", "model", "outcome")
        self.prompt_tokens = self._counter("hyla_prompt_tokens", "Prompt tokens that were read.", "model")
        self.generated_tokens = self._counter("hyla_generated_tokens", "Tokens of answers.", "model")
        self.cached_tokens = self._counter("hyla_cached_tokens", "Prompt tokens that needed no computing.", "model")
        self.misses = self._counter(
            "hyla_cache_misses", "Choices without a cached token, by reason.", "model", "reason"
        )
        self.first_token = self._histogram(
            "hyla_time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_BUCKETS
        )
        self.per_token = self._histogram(
            "hyla_time_per_token_seconds", "Between the tokens of an answer.", PER_TOKEN_BUCKETS
        )
        self.duration = self._histogram(
            "hyla_request_seconds", "From arrival to the end of a choice.", DURATION_BUCKETS
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model",), buckets=buckets, registry=self.registry)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _watch_of(self, name: str):
        children = Children(
            self.prompt_tokens.labels(name),
            self.generated_tokens.labels(name),
            self.first_token.labels(name),
            self.per_token.labels(name),
            self.recent[name],
        )

        def watch(request: Request, on_event: Callable[[TokenEvent], None]):
            return _Watched(self, name, children, len(request.prompt), on_event, monotonic)

        return watch


class _Watched:
    """The callback of one request, with a stopwatch. Called on one thread only."""

    def __init__(
        self, metrics: Metrics, model: str, children: Children, num_prompt: int, on_event, clock: Callable[[], float]
    ):
        self._metrics, self._model, self._own = metrics, model, children
        self._num_prompt, self._on_event, self._clock = num_prompt, on_event, clock
        self._arrived = clock()
        self._last: dict[int, float] = {}
        """When the latest token of each choice came."""

    def __call__(self, event: TokenEvent) -> None:
        now = self._clock()
        if event.token_ids:
            self._count_tokens(event, now)
        if event.finish_reason is not None:
            self._count_end(event, now)
        self._on_event(event)

    def _count_prompt(self) -> None:
        self._own.prompt_tokens.inc(self._num_prompt)
        self._own.recent.prompt.add(self._num_prompt)

    def _count_tokens(self, event: TokenEvent, now: float) -> None:
        children, count = self._own, len(event.token_ids)
        before = self._last.get(event.choice)
        if before is None:
            children.first_token.observe(now - self._arrived)
            self._count_prompt()
        else:
            children.per_token.observe((now - before) / count)
        self._last[event.choice] = now
        children.generated_tokens.inc(count)
        children.recent.generated.add(count)

    def _count_end(self, event: TokenEvent, now: float) -> None:
        metrics, model = self._metrics, self._model
        metrics.finished.labels(model, event.finish_reason).inc()
        metrics.duration.labels(model).observe(now - self._arrived)
        if event.finish_reason in ("stop", "length") and event.choice not in self._last:
            self._count_prompt()  # it was only scored
        if event.usage is not None:
            metrics.cached_tokens.labels(model).inc(event.usage.cached_tokens)
            if event.usage.miss_reason is not None:
                metrics.misses.labels(model, event.usage.miss_reason).inc()


class _EngineNumbers:
    """A collector that asks every engine for its status when Prometheus comes."""

    def __init__(self, workers: Mapping[str, EngineHandle]):
        self._workers = workers

    def describe(self) -> list[Metric]:
        return []  # asking the engines at start-up would be too early

    def collect(self) -> Iterator[Metric]:
        told = {name: worker.status() for name, worker in self._workers.items()}
        yield from self._queue(told)
        yield from self._caches(told)
        yield from self._work(told)

    @staticmethod
    def _queue(told: dict[str, dict]) -> Iterator[Metric]:
        unfinished = GaugeMetricFamily("hyla_unfinished_requests", "Requests that are not finished.", labels=["model"])
        running = GaugeMetricFamily("hyla_running", "Choices that are computed now.", labels=["model"])
        waiting = GaugeMetricFamily("hyla_waiting", "What waits for a slot.", labels=["model", "kind"])
        state = GaugeMetricFamily("hyla_engine_state", "1 for the state that it is in.", labels=["model", "state"])
        for model, status in told.items():
            unfinished.add_metric([model], status["unfinished_requests"])
            running.add_metric([model], status["running"])
            for kind, value in status["waiting"].items():
                waiting.add_metric([model, kind], value)
            for name in ENGINE_STATES:
                state.add_metric([model, name], float(status["state"] == name))
        yield from (unfinished, running, waiting, state)

    @staticmethod
    def _caches(told: dict[str, dict]) -> Iterator[Metric]:
        units = GaugeMetricFamily(
            "hyla_cache_units", "Pages, slots and snapshots by who has them.", labels=["model", "unit", "state"]
        )
        size = GaugeMetricFamily("hyla_cache_bytes", "Memory of the caches.", labels=["model"])
        evicted = CounterMetricFamily("hyla_evicted", "What the prefix cache gave up.", labels=["model", "kind"])
        kept = GaugeMetricFamily("hyla_prefix_kept", "What the prefix cache knows.", labels=["model", "kind"])
        for model, status in told.items():
            size.add_metric([model], status["cache_bytes"])
            for unit, counts in status["ledger"].items():
                for name in ("free", "used", "cached"):
                    units.add_metric([model, unit, name], counts[name])
            prefix = status["prefix_cache"] or {}
            for kind in ("pages", "checkpoints"):
                evicted.add_metric([model, kind], prefix.get(f"evicted_{kind}", 0))
            for kind in ("nodes", "checkpoints"):
                kept.add_metric([model, kind], prefix.get(kind, 0))
        yield from (units, size, evicted, kept)

    @staticmethod
    def _work(told: dict[str, dict]) -> Iterator[Metric]:
        steps = CounterMetricFamily("hyla_steps", "Batches computed.", labels=["model"])
        preempted = CounterMetricFamily("hyla_preemptions", "Choices that had to make room.", labels=["model"])
        drafts = CounterMetricFamily("hyla_draft_tokens", "Drafts by what became of them.", labels=["model", "kind"])
        version = GaugeMetricFamily("hyla_weights_version", "Counts the weights since the start.", labels=["model"])
        restarts = CounterMetricFamily("hyla_engine_restarts", "Deaths of the engine's process.", labels=["model"])
        for model, status in told.items():
            steps.add_metric([model], status["steps"])
            preempted.add_metric([model], status["preemptions"])
            version.add_metric([model], status["weights_version"])
            restarts.add_metric([model], status.get("worker", {}).get("restarts", 0))
            for kind, name in (("proposed", "drafted"), ("accepted", "accepted")):
                drafts.add_metric([model, kind], status["speculation"][name])
        yield from (steps, preempted, drafts, version, restarts)
