"""The engine: requests in, events out, one step at a time. Single-threaded; `EngineThread` runs it beside a server."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from hyla.caches import Cache
from hyla.caches.pool import num_pages_for
from hyla.caches.prefix import PrefixCache
from hyla.engine.choosing import NOT_NUMBERS
from hyla.engine.clock import Clock, RecentRate, monotonic
from hyla.engine.collect import Collector
from hyla.engine.drafts import Part
from hyla.engine.generation import Generation
from hyla.engine.grammar import GrammarCompiler
from hyla.engine.limits import NOTHING, Load, Overloaded, QueueLimits
from hyla.engine.memory import Demand, available_bytes, plan_memory
from hyla.engine.messages import Completion, FinishReason, Request, TokenEvent
from hyla.engine.options import EngineOptions
from hyla.engine.params import SamplingParams
from hyla.engine.runner import Runner
from hyla.engine.scheduler import Scheduler
from hyla.engine.speculation import Speculation
from hyla.engine.text import TextCodec
from hyla.engine.token_ids import bad_word_ids, check_token_ids
from hyla.errors import CapacityError, RequestError
from hyla.models.trunk import Model
from hyla.ops.batch import CHUNK

logger = logging.getLogger(__name__)

Prompt = str | Sequence[int]


class Engine:
    """Continuous batching over one model.

    model: a `Model`, a folder that holds one, or its name "org/name" on the Hugging Face hub. A model object gets
    `eval()` and, unless `pack=False`, `pack()`: it is changed in place and gives no gradients until `model.unpack()`.
    tokenizer: anything with `encode` and `decode`; a folder brings its own. Without one, prompts are token ids and
    completions have no text.
    draft_model: a small model object, with speculation="draft"; None: `options.draft_model` is loaded.
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
        draft_model: Model | None = None,
        progress: Callable[[int, int], None] | None = None,
        clock: Clock = monotonic,
        **options,
    ):
        self.options = EngineOptions(**options)
        if isinstance(model, str | Path):
            model, tokenizer = _load(model, tokenizer, self.options, progress)
        self.model, self.tokenizer = model.eval(), tokenizer
        if self.options.pack:
            model.pack()
        self.context_len = min(self.options.context_len or model.config.max_len, model.config.max_len)
        speculation = Speculation.kind(self.options, model)
        specs = Speculation.specs(speculation, model)
        self.memory = plan_memory(
            specs, self._demand(speculation), memory=self.options.memory, available=available_bytes(model.device)
        )
        self.notes = [*self._context_note(), *self.memory.notes, *Speculation.notes(self.options, speculation)]
        for note in self.notes:
            logger.warning(note)
        self.cache = Cache(
            specs,
            num_pages=self.memory.num_pages,
            num_slots=self.memory.num_slots,
            num_snapshots=self.memory.num_snapshots,
            num_window_pages=self.memory.num_window_pages,
            snapshot_dtype=self.options.snapshot_dtype,
            device=model.device,
        )
        self.prefix = PrefixCache(self.cache) if self.options.prefix_cache else None
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
        self._runner = Runner(model, self.cache, drafter=self.speculation.drafter, on_commit=self.scheduler.keep)
        self.clock = clock
        self.limits = QueueLimits(
            self.scheduler.waiting,
            max_requests=self.options.max_queued_requests,
            max_tokens=self.options.max_queued_tokens,
            clock=clock,
        )
        self.weights_version = 1
        """Counts the weights that this engine has had; `Administration.update_weights` changes it."""
        self.num_steps = 0
        self._computed = RecentRate(clock)
        """Tokens."""
        self._grammars = GrammarCompiler(self.tokenizer)
        self._generations: dict[str, list[Generation]] = {}
        self._events: list[TokenEvent] = []
        """News that the next `step` returns first."""
        self._arrivals, self._names = count(), count()

    def _demand(self, speculation: str) -> Demand:
        options = self.options
        return Demand(
            max_num_sequences=options.max_num_sequences,
            context_len=self.context_len,
            prefill_chunk=min(options.prefill_chunk, options.max_batch_tokens),
            keeps_prefixes=options.prefix_cache,
            snapshot_dtype=options.snapshot_dtype,
            num_spare_slots=1 + options.max_num_sequences // 4 if speculation != "off" else 0,
        )

    def _context_note(self) -> list[str]:
        asked = self.options.context_len or 0
        if asked <= self.context_len:
            return []
        return [f"context_len lowered from {asked} to {self.context_len}: the model is declared for no more"]

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Token ids that end a text: the model's and the tokenizer's."""
        ids = dict.fromkeys(self.model.config.eos_token_ids)
        own = self.tokenizer.eos_token_id if hasattr(self.tokenizer, "eos_token_id") else None
        known = range(self.model.config.vocab_size)
        return tuple(token for token in {**ids, own: None} if token in known)

    @property
    def has_news(self) -> bool:
        """Whether events wait for `take_events` or the next step."""
        return bool(self._events)

    @property
    def has_work(self) -> bool:
        return self.has_news or self.scheduler.has_work

    # Requests

    def resolve(self, request: Request) -> Request:
        """The request with token ids, max_tokens and seed in place. Reads the engine only, so any thread may call it.

        Raises RequestError for what the model cannot do, CapacityError for what the caches can never hold.
        """
        ids = self._prompt_ids(request.prompt)
        params = self._resolve_words(request.params)
        room = self.context_len - len(ids)
        if room < (1 if params.max_tokens != 0 else 0):
            raise RequestError(
                f"the prompt has {len(ids)} tokens and the context {self.context_len}, of which the answer needs at "
                f"least one; shorten the prompt",
                "prompt",
            )
        if (params.max_tokens or 0) > room:
            raise RequestError(
                f"max_tokens is {params.max_tokens}, but the prompt's {len(ids)} tokens leave {room} of the context's "
                f"{self.context_len}; ask for fewer or shorten the prompt",
                "max_tokens",
            )
        most = self._fitting_tokens(len(ids), params.max_tokens, room)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        return replace(request, prompt=ids, params=params.model_copy(update={"max_tokens": most, "seed": seed}))

    def _resolve_words(self, params: SamplingParams) -> SamplingParams:
        """The parameters with token ids instead of words. Raises RequestError for what model or tokenizer cannot do."""
        if params.stop and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer; give stop_token_ids or Engine(..., tokenizer=)", "stop")
        params = params.model_copy(update={"bad_words": bad_word_ids(params.bad_words, self.tokenizer)})
        check_token_ids(params, self.model.config.vocab_size)
        if params.grammar is not None:
            self._grammars.compile(params.grammar)
        return params

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise RequestError(
                    "a text prompt needs a tokenizer; give token ids or Engine(..., tokenizer=)", "prompt"
                )
            prompt = self.tokenizer.encode(prompt)
        ids = tuple(prompt)
        if not all(type(token) is int for token in ids):
            raise RequestError("a prompt is a text or a list of integer token ids", "prompt")
        self.model.check_ids(ids, "the prompt")
        return ids

    def _fitting_tokens(self, num_prompt: int, max_tokens: int | None, room: int) -> int:
        """Tokens to generate at most; raises CapacityError when the pages can never hold them."""
        capacity = self.memory.num_tokens
        # The last token is returned but never computed, so it needs no row.
        if num_prompt + (max_tokens or 1) - 1 > capacity:
            raise CapacityError(
                f"the prompt's {num_prompt} tokens and an answer of {max_tokens or 1} need "
                f"{num_pages_for(num_prompt + (max_tokens or 1) - 1)} pages of {CHUNK} tokens and the caches have "
                f"{self.memory.num_pages}; shorten them or give the engine more with memory="
            )
        return max_tokens if max_tokens is not None else min(room, capacity + 1 - num_prompt)

    def add(self, request: Request, *, arrived: float | None = None, is_admitted: bool = False) -> Request:
        """Queue a request; its events come out of `step`. Returns it resolved.

        arrived: when, on the engine's clock; None: now. is_admitted: the queue's limits were checked before.
        Raises RequestError (also for an id that is in use), CapacityError, and Overloaded when too much waits.
        """
        if request.request_id in self._generations:
            raise RequestError(f"request id {request.request_id!r} is in use; choose another", "request_id")
        request = self.resolve(request)
        if not is_admitted:
            self.check_room(Load.of(request))
        arrived = self.clock() if arrived is None else arrived
        form = request.params.grammar
        grammar = self._grammars.compile(form) if form is not None else None
        generations = [
            Generation(
                request,
                choice,
                arrival=next(self._arrivals),
                eos_ids=self.eos_ids,
                tokenizer=self.tokenizer,
                arrived=arrived,
                grammar=grammar.copy() if grammar is not None else None,
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
        """News that needs no step: cancellations, and events that nobody asked for yet."""
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
        self.speculation.forget(generation)
        name = generation.request.request_id
        self._generations[name].remove(generation)
        if not self._generations[name]:
            del self._generations[name]

    # Steps

    def step(self) -> list[TokenEvent]:
        """Compute one batch; returns what became known. Checks the ledger whenever nothing is left to do."""
        self.expire()
        events = self.take_events()
        parts = self.scheduler.plan()
        events += self._end_failed()
        self.limits.note_starts()
        if parts:
            with self.speculation.timing(parts):
                events += self._run(parts)
            self.num_steps += 1
            self._computed.add(sum(part.num_known for part in parts))
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
            events.append(self._end(generation, "error", message))
        return events

    def _run(self, parts: list[Part]) -> list[TokenEvent]:
        try:
            outcomes = self._runner.step(parts)
        except Exception as error:  # an operator failed: its batch's cached rows are not to be trusted
            logger.exception("a step failed; its %d sequences end with an error", len(parts))
            message = f"computing the batch failed: {type(error).__name__}: {error}"
            return [self._end(part.generation, "error", message, keep=False) for part in parts]
        events = []
        for outcome in outcomes:
            generation = outcome.generation
            events += outcome.events
            if outcome.problem is not None or outcome.is_scored:
                reason = "length" if outcome.is_scored else "error"
                if outcome.problem == NOT_NUMBERS:
                    self.forget_cached()  # what it has put there may be where they come from
                events.append(self._end(generation, reason, outcome.problem, keep=outcome.is_scored))
            elif outcome.events[-1].finish_reason is not None:
                self._forget(generation)
        return events

    # Administration

    @property
    def request_ids(self) -> tuple[str, ...]:
        """Of unfinished requests, oldest first."""
        return tuple(self._generations)

    def forget_cached(self) -> None:
        """Empty what is kept for reuse between requests; called when the weights change or the cache is released."""
        if self.prefix is not None:
            self.prefix.clear()

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
            "speculation": self.speculation.status(),
        }

    # Blocking use

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Continue prompts (texts or token-id lists); returns n completions for each, in order.

        params: for all prompts, or one for each. All prompts are checked before any is computed.
        Raises RequestError and CapacityError.
        """
        prompts = [prompts] if _is_one(prompts) else list(prompts)
        each = params if isinstance(params, list | tuple) else [params or SamplingParams()] * len(prompts)
        if len(each) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts and {len(each)} sampling parameters; give as many", "params")
        requests = [self.resolve(self._request(prompt, own)) for prompt, own in zip(prompts, each)]
        collectors = [Collector(request) for request in requests]
        by_id = {collector.request.request_id: collector for collector in collectors}
        left = deque(requests)
        try:
            while not all(collector.is_finished for collector in collectors):
                self._add_fitting(left)
                self._route(by_id)
        finally:
            self._abandon(by_id)
        return [completion for collector in collectors for completion in collector.completions()]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[TokenEvent]:
        """Events of one prompt as they come. Closing the iterator cancels the request."""
        request = self.add(self._request(prompt, params or SamplingParams()))
        collector = Collector(request)
        mine = {request.request_id: collector}
        try:
            while not collector.is_finished:
                yield from self._route(mine)
        finally:
            self._abandon(mine)

    def _add_fitting(self, requests: deque[Request]) -> None:
        """Add requests, first to last, up to the queue's limits; what is added is taken out."""
        while requests:
            try:
                self.add(requests[0])
            except Overloaded:
                return
            requests.popleft()

    def _request(self, prompt: Prompt, params: SamplingParams) -> Request:
        own = prompt if isinstance(prompt, str) else tuple(prompt)
        return Request(f"local-{next(self._names)}", own, params)

    def _route(self, mine: dict[str, Collector]) -> list[TokenEvent]:
        """One step; events of other requests stay for whoever steps next."""
        events = self.step()
        own = [event for event in events if event.request_id in mine]
        self._events += [event for event in events if event.request_id not in mine]
        for event in own:
            mine[event.request_id].add(event)
        return own

    def _abandon(self, mine: dict[str, Collector]) -> None:
        for name in mine:
            self.cancel(name)
        self._events = [event for event in self._events if event.request_id not in mine]


def _is_one(prompts) -> bool:
    """Whether this is one prompt, not a list of them."""
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))


def _load(folder: str | Path, tokenizer: TextCodec | None, options: EngineOptions, progress=None):
    """(model, tokenizer) of a folder; the tokenizer is optional there."""
    from hyla.checkpoints import load_model, load_tokenizer, resolve

    folder = resolve(folder, options.revision)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    model = load_model(folder, dtype=dtype, device=options.device, progress=progress)
    if tokenizer is None and (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder)
    return model, tokenizer
