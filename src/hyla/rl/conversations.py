"""Answers in several turns: the engine draws one, its calls are made, and it goes on behind the same ids and results.

Conversations do not wait for each other: while tools work for some, the engine draws for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Event

from hyla.engine import Request, SamplingParams
from hyla.engine.requests.messages import Completion
from hyla.errors import RequestError
from hyla.rl.config import RolloutConfig
from hyla.rl.places import Place, drawn_logprobs, seed_of
from hyla.rl.samples import Sample, Turn
from hyla.rl.tools.between import Between
from hyla.rl.tools.config import ToolsConfig
from hyla.rl.tools.reading import calls_in, calls_of
from hyla.rl.tools.tools import Tools
from hyla.rl.turns import DrawnTurn, TurnFile

OUT_OF_TURNS = "turns"
"""How an answer ends whose last turn has calls still."""
NOT_WRITTEN = "the chat template fails on results of its tools"
"""How one ends that cannot go on; it is not judged."""
PROMPT_TAIL = 64
"""Tokens in which a prompt that opens reasoning does so."""

More = Callable[[bool], Sequence[Request]]
Finished = Callable[[Sequence[Request], More], Iterator[list[Completion]]]


@dataclass
class Conversation:
    """One answer while it grows."""

    place: Place
    drawn: list[DrawnTurn] = field(default_factory=list)
    added_ids: tuple[int, ...] = ()
    """What the template wrote behind the last of these."""
    finish_reason: str | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """All that the next turn stands behind."""
        turns = chain.from_iterable((*one.turn.added_ids, *one.token_ids) for one in self.drawn)
        return (*self.place.task.prompt_ids, *turns, *self.added_ids)

    @property
    def num_drawn(self) -> int:
        return sum(one.turn.num_tokens for one in self.drawn)

    def sample(self) -> Sample:
        """Of a finished one."""
        assert self.finish_reason is not None
        return Sample(
            *self.place.key,
            task=self.place.task.number,
            prompt_ids=self.place.task.prompt_ids,
            token_ids=tuple(chain.from_iterable(one.token_ids for one in self.drawn)),
            logprobs=tuple(chain.from_iterable(one.logprobs for one in self.drawn)),
            text=self.drawn[-1].text,
            finish_reason=self.finish_reason,
            cached_tokens=sum(one.cached_tokens for one in self.drawn),
            drafted_tokens=sum(one.drafted_tokens for one in self.drawn),
            accepted_tokens=sum(one.accepted_tokens for one in self.drawn),
            turns=tuple(one.turn for one in self.drawn),
        )


class Conversations:
    """Draws answers in several turns.

    finished: as `Engine.finished`, with requests. context_len: tokens that the model takes. A conversation is a
    function of the weights, its task, its seed, what its tools give and the config, whoever else is there meanwhile.
    """

    def __init__(self, tools: Tools, between: Between, config: RolloutConfig, context_len: int, finished: Finished):
        assert config.tools is not None
        self.tools, self.between, self.config, self.context_len = tools, between, config, context_len
        self.limits: ToolsConfig = config.tools
        self.finished = finished

    def samples(
        self, places: Sequence[Place], params: SamplingParams, file: TurnFile | None = None
    ) -> Iterator[list[Sample]]:
        """The answers as they are finished. params: of every turn, without its seed and length. file: where turns are
        kept, and those of earlier processes taken from; it is removed when all answers are there."""
        known = file.read() if file is not None else {}
        started = [Conversation(place, known.get(place.key, [])) for place in places]
        yield from _Work(self, params, file).run(started)
        if file is not None:
            file.remove()

    def request(self, one: Conversation, params: SamplingParams) -> Request | None:
        """The next turn's; None where it has no token left."""
        ids = one.ids
        left = self.config.max_tokens - one.num_drawn
        most = min(left, self.limits.turn_tokens or left, self.context_len - len(ids))
        if most < 1:
            return None
        number = len(one.drawn)
        seed = seed_of(*one.place.seed, *([number] if number else []))
        own = params.model_copy(
            update={"max_tokens": most, "seed": seed, "skip_special_tokens": self.between.hides_special_tokens}
        )
        return Request(f"{one.place.name}-{number}", ids, own)

    def read(self, one: Conversation, done: Completion, params: SamplingParams) -> DrawnTurn:
        """A turn that the engine has drawn, before its calls are made."""
        text = done.text or ""
        tail = self.between.tokenizer.decode(one.ids[-PROMPT_TAIL:], skip_special_tokens=False)
        found = calls_in(self.between.parser(tail), text, f"call_{len(one.drawn)}")
        is_unread = not found.calls and self.between.has_mark(text)
        turn = Turn(one.added_ids, len(done.token_ids), found.message(), num_errors=int(is_unread))
        usage = done.usage
        counts = (usage.cached_tokens, usage.drafted_tokens, usage.accepted_tokens)
        return DrawnTurn(turn, done.token_ids, drawn_logprobs(done, params), text, *counts)

    def reason(self, one: Conversation, done: Completion) -> str | None:
        """Why the conversation ends with its last turn; None: its calls are to be made."""
        if done.finish_reason != "stop" or not one.drawn[-1].turn.message.get("tool_calls"):
            return done.finish_reason
        return OUT_OF_TURNS if len(one.drawn) == self.limits.max_turns else None

    def answered(self, turn: Turn, is_over: Callable[[], bool]) -> Turn:
        """The turn with the results of its calls, which are made now, one after another. is_over: nobody waits for the
        rest any more."""
        results, num_errors = [], 0
        for call in calls_of(turn.message):
            if is_over():
                break
            result = self.tools.call(call.name, call.arguments)
            num_errors += result.is_error
            results.append({"role": "tool", "tool_call_id": call.call_id, "name": call.name, "content": result.text})
        return replace(turn, results=tuple(results), num_errors=num_errors)

    def added_ids(self, turn: Turn) -> tuple[int, ...]:
        """What the template writes behind a turn that is answered."""
        return self.between.ids(calls_of(turn.message), [result["content"] for result in turn.results])


class _Work:
    """Conversations that are drawn at the same time."""

    def __init__(self, rules: Conversations, params: SamplingParams, file: TurnFile | None):
        self.rules, self.params, self.file = rules, params, file
        self._drawing: dict[str, Conversation] = {}
        self._ended: list[Conversation] = []
        self._answered: SimpleQueue[tuple[Conversation, Turn | BaseException]] = SimpleQueue()
        self._num_calling = 0
        self._is_over = Event()

    def run(self, started: Sequence[Conversation]) -> Iterator[list[Sample]]:
        with ThreadPoolExecutor(self.rules.limits.processes) as threads:
            try:
                first = [request for one in started for request in self._go_on(one)]
                for completions in self.rules.finished(first, self._more):
                    for done in completions:
                        self._take(done, threads)
                    yield from self._taken()
                yield from self._taken()
            finally:
                self._is_over.set()
                threads.shutdown(wait=False, cancel_futures=True)

    def _taken(self) -> Iterator[list[Sample]]:
        ended, self._ended = self._ended, []
        if ended:
            yield [one.sample() for one in ended]

    def _go_on(self, one: Conversation) -> list[Request]:
        """The request of its next turn; none where there is no room, or the template fails on the results, and it
        ends."""
        request, reason = None, "length"
        try:
            if one.drawn:
                one.added_ids = self.rules.added_ids(one.drawn[-1].turn)
            request = self.rules.request(one, self.params)
        except RequestError:
            reason = NOT_WRITTEN
        if request is None:
            one.finish_reason = reason
            self._ended.append(one)
            return []
        self._drawing[request.request_id] = one
        return [request]

    def _take(self, done: Completion, threads: ThreadPoolExecutor) -> None:
        one = self._drawing.pop(done.request_id)
        drawn = self.rules.read(one, done, self.params)
        one.drawn.append(drawn)
        one.added_ids = ()
        one.finish_reason = self.rules.reason(one, done)
        if one.finish_reason is None:
            self._num_calling += 1
            threads.submit(self._call, one, drawn.turn)
        else:
            self._ended.append(one)

    def _call(self, one: Conversation, turn: Turn) -> None:
        try:
            self._answered.put((one, self.rules.answered(turn, self._is_over.is_set)))
        except BaseException as error:  # whoever waits shall hear of it
            self._answered.put((one, error))

    def _more(self, is_idle: bool) -> list[Request]:
        """Requests of those whose calls have been answered; with nothing else to do, wait for some."""
        found: list[Request] = []
        while self._num_calling:
            try:
                one, turn = self._answered.get(block=is_idle and not found)
            except Empty:
                break
            self._num_calling -= 1
            if isinstance(turn, BaseException):
                raise turn
            one.drawn[-1] = replace(one.drawn[-1], turn=turn)
            if self.file is not None:
                self.file.add(one.place.key, one.drawn[-1])
            found += self._go_on(one)
        return found
