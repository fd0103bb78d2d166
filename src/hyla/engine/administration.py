"""Pausing, sleeping and new weights, between two steps of an engine that goes on living.

running --pause--> (draining -->) paused --sleep--> asleep --wake--> paused --resume--> running

While an engine is not running, requests are still accepted within the queue's limits and wait; cancellations and
deadlines work as ever.
"""

from __future__ import annotations

from typing import Literal

from hyla.engine.engine import Engine
from hyla.engine.fingerprint import weights_digest
from hyla.engine.hosting.handed import HandedWeights
from hyla.engine.renewal import Renewal, put_terms
from hyla.errors import HylaError, RequestError
from hyla.ops.devices import says_what_to_lower
from hyla.ops.host_memory import give_back_freed_memory

PauseMode = Literal["finish", "keep", "abort"]
State = Literal["running", "draining", "paused", "asleep"]


class Administration:
    """Changes an engine between its steps. As single-threaded as the engine; `EngineThread` offers it to all threads.

    Whoever steps the engine must ask `may_step` before, and call `settle` after.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.state: State = "running"
        self.has_weights = True
        """False after the weights were released, or an update failed half-way: only whole new ones help."""

    @property
    def may_step(self) -> bool:
        return self.state in ("running", "draining")

    def pause(self, mode: PauseMode = "finish") -> None:
        """Stop computing.

        "finish": what has started is finished first (state "draining"); what waits goes on waiting.
        "keep": at once; what runs keeps its cached state and goes on after `resume`.
        "abort": at once; every unfinished request, waiting ones too, ends as cancelled.
        """
        if mode not in ("finish", "keep", "abort"):
            raise RequestError(f"mode = {mode!r}: choose finish, keep or abort", "mode")
        if self.state == "asleep":
            raise HylaError("the engine is asleep, which is more than paused; wake it to change that")
        if mode == "abort":
            for name in self.engine.request_ids:
                self.engine.cancel(name)
        if self.state != "paused":
            self._hold(mode == "finish")
        self.settle()

    def _hold(self, is_draining: bool) -> None:
        self.engine.scheduler.waiting.only_started = is_draining
        self.state = "draining" if is_draining else "paused"

    def settle(self) -> None:
        """End a drain when everything that had started is finished."""
        scheduler = self.engine.scheduler
        if self.state == "draining" and not scheduler.running and scheduler.waiting.peek() is None:
            self._hold(False)

    def resume(self) -> None:
        """Go on. Does nothing while the engine runs."""
        if self.state == "asleep":
            raise HylaError("the engine is asleep; wake it first")
        if not self.has_weights:
            raise HylaError("the engine has no whole set of weights; update_weights with a whole model first")
        self._hold(False)
        self.state = "running"

    def sleep(self, *, release_weights: bool = False) -> None:
        """Free the cache's memory, and with `release_weights` the weights' too; the process and the requests stay.

        Requests that were running lose their cached state and are computed again from their tokens after `wake` and
        `resume`, with the same result; what is cached goes to the spill folder first, if there is one. Released
        weights are gone: give new ones with `update_weights` after `wake`.
        """
        from hyla.checkpoints import release_weights as release

        self._require_paused("sleep")
        self.engine.scheduler.preempt_all()
        self.engine.spill_now()
        self._forget_states()
        self.engine.cache.release()
        self.state = "asleep"
        if release_weights:
            self.has_weights = False
            release(self.engine.model)
        give_back_freed_memory()

    def wake(self) -> None:
        """Take the cache's memory again; the engine is paused then."""
        if self.state != "asleep":
            raise HylaError(f"the engine is {self.state}, not asleep; there is nothing to wake")
        with says_what_to_lower(self.engine.cache.device, "the caches", "free memory there and wake it again"):
            self.engine.cache.allocate()
        self.state = "paused"

    def update_weights(self, source) -> int:
        """Replace weights in place; returns the new version. source: as in `checkpoints.WeightUpdate`.

        Everything is checked before anything changes (CheckpointError). What was running before (`pause("keep")`) is
        computed again from its tokens with the new weights: the answer goes on from text of the old ones.
        """
        from hyla.checkpoints import WeightUpdate

        self._require_paused("update the weights")
        engine = self.engine
        if engine.options.adapter is not None:
            raise HylaError(
                f"the adapter {engine.options.adapter} is part of the weights and would be lost; start an engine with "
                "the new ones instead"
            )
        options = {"device": engine.cache.device, "pack": engine.options.pack, "whole": not self.has_weights}
        with WeightUpdate(engine.model, source, **options) as update:
            self._forget_states()
            self.has_weights = False  # until all are there
            with says_what_to_lower(engine.cache.device, "the new weights", "free memory there and update again"):
                update.apply()
        self.has_weights = True
        engine.weights_version += 1
        return engine.weights_version

    def renew_weights(self, handed: HandedWeights) -> str:
        """Take numbers that a trainer has handed over: in place, without a pause, while no request is here. Returns the
        digest of what the weights are then (`fingerprint.weights_digest`, of what came).

        Raises HylaError for a part of a model that belongs to another version than the engine has; nothing has changed
        then.
        """
        engine = self.engine
        if engine.request_ids:
            raise HylaError(f"{len(engine.request_ids)} requests are unfinished; hand weights over when they are done")
        if handed.follows is not None and (handed.follows != engine.weights_version or not self.has_weights):
            raise HylaError(
                f"the weights that came belong to version {handed.follows} of the others, and the engine has version "
                f"{engine.weights_version}; hand all of them over"
            )
        self._forget_states()
        self.has_weights = False  # until all are there
        tensors = handed.tensors()
        Renewal(engine.model, handed.weights)(tensors.__getitem__)
        put_terms(engine.model, handed.low_rank(tensors))
        self.has_weights = True
        engine.weights_version = handed.version
        return weights_digest(engine.model, set(handed.weights), set(handed.terms))

    def _require_paused(self, what: str) -> None:
        if self.state != "paused":
            raise HylaError(f"the engine is {self.state}; to {what}, pause it and wait until it is paused")

    def _forget_states(self) -> None:
        """Nothing cached outlives this: running requests wait for their recomputation, the prefix cache is emptied."""
        self.engine.scheduler.preempt_all()
        self.engine.forget_cached()

    def status(self) -> dict:
        """The engine's numbers, with the state."""
        return {"state": self.state, "has_weights": self.has_weights, **self.engine.status()}
