"""The engine: requests in, events out, one step at a time. Single-threaded; `EngineThread` runs it beside a server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from hyla.caches.prefix import PrefixCache
from hyla.engine import assembly
from hyla.engine.blocking import BlockingUse
from hyla.engine.clock import Clock, RecentRate, monotonic
from hyla.engine.drafts import Part
from hyla.engine.generation import Generation
from hyla.engine.memory import plan_memory
from hyla.engine.observing import StepObserver
from hyla.engine.profile import StepProfile
from hyla.engine.requests.facts import EngineFacts
from hyla.engine.requests.messages import FinishReason, Request, TokenEvent
from hyla.engine.requests.options import EngineOptions
from hyla.engine.requests.resolving import Resolved, Resolver
from hyla.engine.requests.text import EndsText, TextCodec
from hyla.engine.routes import routers
from hyla.engine.runner import Runner
from hyla.engine.sampling.choosing import NOT_NUMBERS
from hyla.engine.sampling.grammar import GrammarCompiler
from hyla.engine.scheduling.limits import NOTHING, Load, QueueLimits
from hyla.engine.scheduling.scheduler import Scheduler
from hyla.engine.speculation import Speculation
from hyla.engine.threads import use_threads
from hyla.errors import ConfigError, RequestError
from hyla.models.operators import backends_of
from hyla.models.trunk import Model
from hyla.ops import backends, numerics
from hyla.ops.devices import DeviceFull, says_what_to_lower
from hyla.ranges import named_range

logger = logging.getLogger(__name__)

SMALLER_STEPS = "lower max_batch_tokens, max_num_sequences or memory"


class Engine(BlockingUse):
    """Continuous batching over one model.

    model: a `Model`, a folder or GGUF file that holds one, a known name (`checkpoints.names`), or "org/name" on the
    Hugging Face hub. A model object gets `eval()` and, unless `pack=False`, `pack()`: it is changed in place and gives
    no gradients until `model.unpack()`.
    tokenizer: anything with `encode` and `decode`; a folder brings its own. Without one, prompts are token ids and
    completions have no text.
    draft_model: with speculation="draft" a small model object, or the folder or hub name that the option names.
    progress: of loading, as in `checkpoints.load_model`.
    clock: seconds, for deadlines and rates; another one makes them testable.
    options: the fields of `EngineOptions`.
    Raises ConfigError for options, CheckpointError for a folder, CapacityError when the budget holds no sequence.
    """

    def __init__(
        self,
        model: Model | str | Path,
        *,
        tokenizer: TextCodec | None = None,
        draft_model: Model | str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        clock: Clock = monotonic,
        **options,
    ):
        if isinstance(draft_model, str | Path):  # the option of the same name
            draft_model, options["draft_model"] = None, str(draft_model)
        self.options = EngineOptions(**options)
        lowered = use_threads(self.options.threads)
        if isinstance(model, str | Path):
            model, tokenizer = assembly.load(model, tokenizer, self.options, progress)
        elif self.options.adapter is not None:
            raise ConfigError("adapter is merged as a folder is loaded; this model is one already: use adapters.merge")
        self.model, self.tokenizer = model.eval(), tokenizer
        if self.options.pack:
            model.pack()
        self.context_len = min(self.options.context_len or model.config.max_len, model.config.max_len)
        speculation = Speculation.kind(self.options, model)
        specs = Speculation.specs(speculation, model)
        demand = assembly.demand_of(self.options, self.context_len, speculates=speculation != "off")
        self.memory = plan_memory(
            specs, demand, budget=assembly.cache_budget(self.options, model, self.context_len, speculation)
        )
        self.notes = [
            *lowered,
            *assembly.context_notes(self.options, self.context_len),
            *self.memory.notes,
            *Speculation.notes(self.options, speculation),
        ]
        for note in self.notes:
            logger.warning(note)
        with says_what_to_lower(model.device, "the caches", "give them fewer bytes with memory="):
            self.cache = assembly.make_cache(specs, self.memory, self.options, model.device)
        self.prefix = PrefixCache(self.cache) if self.options.prefix_cache else None
        self.spill = assembly.open_spill(self.prefix, self.options, model) if self.prefix is not None else None
        self.speculation = Speculation(self.options, speculation, model, self.cache, draft_model)
        self.scheduler = Scheduler(
            self.cache,
            max_num_sequences=min(self.options.max_num_sequences, self.memory.num_slots),
            prefill_chunk=self.options.prefill_chunk,
            max_batch_tokens=self.options.max_batch_tokens,
            prefix=self.prefix,
            snapshot_every=self.options.snapshot_every,
            num_drafts=self.speculation.num_drafts if speculation != "off" else None,
            on_leave=self.speculation.forget,
        )
        self._runner = Runner(
            model,
            self.cache,
            drafter=self.speculation.drafter,
            on_commit=self.scheduler.reuse.keep,
            record_steps=self.options.record_steps,
        )
        self.clock = clock
        self.limits = QueueLimits(
            self.scheduler.waiting,
            max_requests=self.options.max_queued_requests,
            max_tokens=self.options.max_queued_tokens,
            clock=clock,
        )
        self._profile = StepProfile(self.options.profile, self.options.profile_steps)
        self.weights_version = 1
        """Counts the weights that this engine has had; `Administration.update_weights` changes it."""
        self.num_steps = 0
        self.num_tokens = 0
        """Tokens that were computed, of prompts and answers; drafts do not count."""
        self._computed = RecentRate(clock)
        """How many tokens were computed lately."""
        grammars = GrammarCompiler(self.tokenizer)
        self._resolver = Resolver(self.facts(), self.tokenizer, grammars)
        self._generations: dict[str, list[Generation]] = {}
        self._events: list[TokenEvent] = []
        """Events that the next `step` returns first."""
        self._arrivals = count()
        super().__init__()

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Token ids that end a text: the model's and the tokenizer's."""
        ids = dict.fromkeys(self.model.config.eos_token_ids)
        from_tokenizer = self.tokenizer.eos_token_id if isinstance(self.tokenizer, EndsText) else None
        known = range(self.model.config.vocab_size)
        return tuple(token for token in {**ids, from_tokenizer: None} if token in known)

    @property
    def has_events(self) -> bool:
        """Whether events wait for `take_events` or the next step."""
        return bool(self._events)

    @property
    def has_work(self) -> bool:
        return self.has_events or self.scheduler.has_work

    def facts(self) -> EngineFacts:
        """What stays the same while this engine lives, for whoever talks to it from elsewhere."""
        return EngineFacts(
            vocab_size=self.model.config.vocab_size,
            hidden_dim=self.model.config.hidden_dim,
            context_len=self.context_len,
            num_pages=self.memory.num_pages,
            max_num_sequences=self.scheduler.max_num_sequences,
            device=str(self.model.device),
            arithmetic=backends.on(self.model.device),
            native_build=backends.native_build(self.model.device),
            numerics=self.options.numerics,
            threads=torch.get_num_threads(),
            backends=backends_of(self.model),
            routers=routers(self.model.config),
            notes=tuple(self.notes),
        )

    # Requests

    def resolve(self, request: Request) -> Resolved:
        """The request, complete, for `add`. Reads the engine only, so any thread may call it.

        Raises RequestError for what the model cannot do, CapacityError for what the caches can never hold.
        """
        return self._resolver.resolve(request)

    def try_grammars_first(self) -> None:
        """From now on try each grammar in a process of its own before it is compiled here: for those of strangers."""
        self._resolver.grammars.try_first()

    def add(self, request: Request | Resolved, *, arrived: float | None = None, is_admitted: bool = False) -> Request:
        """Queue a request; its events come out of `step`. Returns it resolved.

        arrived: when, on the engine's clock; None: now. is_admitted: the queue's limits were checked before.
        Raises RequestError (also for an id that is in use), CapacityError, and Overloaded when too much waits.
        """
        request_id = (request.request if isinstance(request, Resolved) else request).request_id
        if request_id in self._generations:
            raise RequestError(f"request id {request_id!r} is in use; choose another", "request_id")
        resolved = request if isinstance(request, Resolved) else self.resolve(request)
        request, grammars = resolved.request, resolved.grammars
        if not is_admitted:
            self.check_room(Load.of(request))
        arrived = self.clock() if arrived is None else arrived
        generations = [
            Generation(
                request,
                choice,
                arrival=next(self._arrivals),
                eos_ids=self.eos_ids,
                tokenizer=self.tokenizer,
                arrived=arrived,
                grammar=grammars[choice] if grammars else None,
            )
            for choice in range(request.params.n)
        ]
        self._generations[request.request_id] = generations
        for generation in generations:
            self.scheduler.add(generation)
        return request

    def check_room(self, new: Load, ahead: Load = NOTHING) -> None:
        """Raise Overloaded unless this much may be queued behind what waits and `ahead`. Any thread may ask."""
        self.limits.check(new, free_slots=self.scheduler.free_slots, ahead=ahead)

    def cancel(self, request_id: str) -> bool:
        """Stop a request between two steps; its pages are free at once. False when it is not (or no longer) known."""
        generations = tuple(self._generations.get(request_id, ()))
        for generation in generations:
            self._events.append(self._end(generation, "cancelled"))
        return bool(generations)

    def take_events(self) -> list[TokenEvent]:
        """Events that need no step: cancellations, and those that nobody has fetched yet."""
        events, self._events = self._events, []
        return events

    def expire(self) -> None:
        """End what is past its deadline, wherever it is; `step` does so before it computes."""
        for generation in self.scheduler.expired(self.clock()):
            self._events.append(self._end(generation, "deadline"))

    def next_deadline(self) -> float | None:
        """When, on the engine's clock, the next unfinished generation is too late."""
        unfinished = (generation for choices in self._generations.values() for generation in choices)
        return min((one.deadline for one in unfinished if one.deadline is not None), default=None)

    def _end(
        self, generation: Generation, reason: FinishReason, error: str | None = None, *, keep: bool = True
    ) -> TokenEvent:
        self._forget(generation, keep=keep)
        return generation.end(reason, error)

    def _forget(self, generation: Generation, *, keep: bool = True) -> None:
        self.scheduler.remove(generation, keep=keep)
        name = generation.request.request_id
        self._generations[name].remove(generation)
        if not self._generations[name]:
            del self._generations[name]

    # Steps

    def observe(self, observer: StepObserver | None) -> None:
        """Let this one see, and perhaps change, every step from now on; None: nobody. Steps that nobody watches cost
        nothing more."""
        self._runner.observer = observer

    def step(self) -> list[TokenEvent]:
        """Compute one batch; returns what became known. Checks the ledger whenever nothing is left to do."""
        with self._profile.step():
            return self._step()

    def _step(self) -> list[TokenEvent]:
        self.expire()
        events = self.take_events()
        with named_range("schedule"):
            parts = self.scheduler.plan()
        events += self._end_failed()
        self.limits.note_starts()
        if parts:
            with self.speculation.timing(parts):
                events += self._run(parts)
            computed = sum(part.num_known for part in parts)
            self.num_steps += 1
            self.num_tokens += computed
            self._computed.add(computed)
        if not self.scheduler.has_work:
            self.cache.ledger.check()
        return events

    def _end_failed(self) -> list[TokenEvent]:
        """End those that the scheduler could not start."""
        failed, self.scheduler.failed = self.scheduler.failed, []
        events = []
        for generation, error in failed:
            if generation not in self._generations.get(generation.request.request_id, ()):
                continue  # cancelled since
            logger.error("a sequence could not be started; it ends with an error", exc_info=error)
            message = f"starting the sequence failed: {type(error).__name__}: {error}"
            events.append(self._end(generation, "error", message, keep=False))
        return events

    def _run(self, parts: list[Part]) -> list[TokenEvent]:
        for part in parts:
            if part.is_last:
                part.generation.draw_with(self.weights_version)
        try:
            rows = sum(part.num_known + part.num_drafts for part in parts)
            step = says_what_to_lower(self.model.device, f"a step of {rows} tokens", SMALLER_STEPS)
            with step, numerics.use(self.options.numerics):
                outcomes = self._runner.step(parts)
        except DeviceFull as error:
            logger.error("%d sequences end with an error: %s", len(parts), error)
            return [self._end(part.generation, "error", str(error), keep=False) for part in parts]
        except Exception as error:  # an operator failed: its batch's cached rows are not to be trusted
            logger.exception("a step failed; its %d sequences end with an error", len(parts))
            message = f"computing the batch failed: {type(error).__name__}: {error}"
            return [self._end(part.generation, "error", message, keep=False) for part in parts]
        events = []
        for outcome in outcomes:
            generation = outcome.generation
            events += outcome.events
            if outcome.problem is not None or outcome.is_scored:
                reason = "length" if outcome.is_scored else "dead_end" if outcome.is_dead_end else "error"
                if outcome.problem == NOT_NUMBERS:
                    self.forget_cached()  # what it has put there may be where they come from
                events.append(self._end(generation, reason, outcome.problem, keep=outcome.is_scored))
            elif outcome.events[-1].finish_reason is not None:
                self._forget(generation)
        return events

    # Administration

    @property
    def request_ids(self) -> tuple[str, ...]:
        """Ids of unfinished requests, oldest first."""
        return tuple(self._generations)

    def forget_cached(self) -> None:
        """Empty what is kept for reuse between requests and steps; called when the weights change or the cache is
        released."""
        self._runner.forward.forget()
        if self.prefix is not None:
            self.prefix.clear()
        if self.spill is not None:
            self.spill.forget_fingerprint()

    def spill_now(self) -> None:
        """Write the kept prefixes that are worth it to the spill folder, and wait until they are there. Nothing without
        one. Between two steps only."""
        if self.spill is not None:
            self.spill.spill_all()

    def close(self) -> None:
        """Leave what is worth keeping to the next engine on the same spill folder, and write the trace, if one is asked
        for. The engine can still be used."""
        self.spill_now()
        self._profile.finish()

    def status(self) -> dict:
        """Numbers as plain data. Any thread may ask; during a step they may not fit each other exactly."""
        waiting = self.scheduler.waiting
        return {
            "weights_version": self.weights_version,
            "steps": self.num_steps,
            "running": len(self.scheduler.running),
            "waiting": {
                "requests": waiting.num_requests,
                "generations": len(waiting),
                "tokens": waiting.num_tokens,
            },
            "preemptions": self.scheduler.num_preemptions,
            "tokens_per_second": self._computed.per_second(),
            "ledger": self.cache.ledger.counts(),
            "cache_bytes": self.cache.nbytes,
            "prefix_cache": self.prefix.status() if self.prefix is not None else None,
            "spill": self.spill.status() if self.spill is not None else None,
            "speculation": self.speculation.status(),
            "recorded_steps": self._runner.forward.report(),
        }
