"""The soak: thousands of requests through one engine that has too little memory for them, each compared with the answer
that it gets alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from soak.traffic import CONTEXT_LEN, Question, draft_model, model, questions
from tiny_text import byte_tokenizer

from hyla.engine import Completion, Engine, Overloaded, Request, TokenEvent
from hyla.engine.clock import ManualClock
from hyla.engine.requests.collect import Collector

ROOMY = 64 << 20
MAX_NUM_SEQUENCES = 12
SHARE = 12
"""The engine under test has one part in so many of the bytes that its sequences could use; a short soak needs less."""
UNFINISHED = 40
"""About so many requests are with the engine at any time."""
KINDS = ("lookup", "mtp", "draft")
"""Of speculation."""
CHECKED_EVERY = 25
"""Steps between two checks of the ledger."""


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Result:
    """What a soak has seen."""

    counts: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    """Bytes at each tenth of the requests."""


class Alone:
    """A pool of questions, and each one's answers as an engine gives them that does nothing else; computed once."""

    def __init__(self, pool: list[Question]):
        self.pool, self.model = pool, model()
        self._engine = Engine(
            self.model,
            memory=ROOMY,
            max_num_sequences=1,
            context_len=CONTEXT_LEN,
            prefix_cache=False,
            tokenizer=byte_tokenizer(),
        )
        self._answers: dict[int, list[Completion]] = {}

    def answers(self, question: Question) -> list[Completion]:
        if question.number not in self._answers:
            self._answers[question.number] = self._engine.generate([question.prompt], question.params)
        return self._answers[question.number]


class Soak:
    """One engine under load.

    speculation: of the engine. alone: what its answers are compared with. seed: of everything random. share: see SHARE.
    """

    def __init__(self, speculation: str, alone: Alone, seed: int, share: int = SHARE):
        self.alone, self.pool, self.draw = alone, alone.pool, random.Random(seed)
        self.clock = ManualClock(0.0)
        fixed = {"max_num_sequences": MAX_NUM_SEQUENCES, "context_len": CONTEXT_LEN, "tokenizer": byte_tokenizer()}
        drafts = {"draft_model": draft_model()} if speculation == "draft" else {}
        drafts |= {"speculation": speculation, "fixed_drafts": True, "max_draft_tokens": 4}
        whole = Engine(alone.model, memory=ROOMY, **fixed, **drafts).cache.nbytes
        self.engine = Engine(
            alone.model,
            memory=whole // share,
            prefill_chunk=48,
            max_batch_tokens=160,
            max_queued_requests=UNFINISHED,
            clock=self.clock,
            **fixed,
            **drafts,
        )
        self.result = Result()
        self._asked: dict[str, tuple[Question, Collector]] = {}

    def run(self, num_requests: int) -> Result:
        """Ask so many questions, and wait for the end of each."""
        asked, counts = 0, self.result.counts
        while asked < num_requests or self.engine.has_work:
            while asked < num_requests and len(self._asked) < UNFINISHED and self.draw.random() < 0.7:
                asked += self._ask(asked)
                if asked % max(num_requests // 10, 1) == 0:
                    self.result.rss.append(resident_bytes())
            self._disturb()
            for event in self.engine.step():
                self._take(event)
            self.clock.advance(1.0)
            counts["steps"] += 1
            if counts["steps"] % CHECKED_EVERY == 0:
                self.engine.cache.ledger.check()
        self._finish()
        return self.result

    def _ask(self, number: int) -> bool:
        draw, question = self.draw, self.draw.choice(self.pool)
        request = Request(
            f"r{number}",
            question.prompt,
            question.params,
            priority=draw.choice((-1, 0, 0, 0, 1)),
            key=draw.choice("abc"),
            deadline_seconds=draw.choice((None, None, None, None, draw.randint(5, 200))),
            cache_salt=draw.choice(("", "", "", "other")),
            snapshot_at=draw.choice(((), (), (64, 100))),
        )
        try:
            resolved = self.engine.add(request)
        except Overloaded:
            self.result.counts["refused, and asked again"] += 1
            return False
        self._asked[request.request_id] = (question, Collector(resolved))
        return True

    def _disturb(self) -> None:
        draw = self.draw
        if self._asked and draw.random() < 0.06:
            self.engine.cancel(draw.choice(list(self._asked)))
        if draw.random() < 0.002:
            self.result.counts["preemptions by order"] += len(self.engine.scheduler.running)
            self.engine.scheduler.preempt_all()
        if draw.random() < 0.001:
            self.engine.forget_cached()

    def _take(self, event: TokenEvent) -> None:
        question, collector = self._asked[event.request_id]
        collector.add(event)
        if collector.is_finished:
            del self._asked[event.request_id]
            for mine, plain in zip(collector.completions(), self.alone.answers(question)):
                self._compare(mine, plain)

    def _compare(self, mine: Completion, plain: Completion) -> None:
        counts, reason = self.result.counts, mine.finish_reason
        counts["choices"] += 1
        counts[f"choices that ended with {reason}"] += 1
        counts["tokens"] += len(mine.token_ids)
        for name in ("cached_tokens", "drafted_tokens", "accepted_tokens"):
            counts[name.replace("_", " ")] += getattr(mine.usage, name)
        is_cut = reason in ("cancelled", "deadline")
        end = len(mine.token_ids) if is_cut else None
        pairs = [(mine.token_ids, plain.token_ids[:end])]
        if mine.logprobs is not None:
            pairs.append((mine.logprobs, plain.logprobs[:end]))
        # The first choice scores the prompt for all; the others may end well when it is cut.
        if mine.prompt_logprobs is not None or (mine.choice == 0 and mine.token_ids):
            pairs.append((mine.prompt_logprobs, plain.prompt_logprobs))
        if not is_cut:
            pairs += [(mine.text, plain.text), (reason, plain.finish_reason), (mine.error, plain.error)]
        if any(one != other for one, other in pairs):
            self.result.problems.append(f"{mine.request_id}, choice {mine.choice}: {mine} is not {plain}")

    def _finish(self) -> None:
        """Nothing is held any more, and what is cached can be let go."""
        engine, counts = self.engine, self.result.counts
        self.result.rss.append(resident_bytes())
        status = engine.prefix.status()
        counts["preemptions"] += engine.scheduler.num_preemptions - counts["preemptions by order"]
        counts["evicted pages"] += status.get("evicted_pages", 0)
        counts["evicted checkpoints"] += status.get("evicted_checkpoints", 0)
        drafter = engine.speculation.drafter
        ledgers = [engine.cache.ledger] + ([drafter.cache.ledger] if engine.options.speculation == "draft" else [])
        engine.forget_cached()
        for ledger in ledgers:
            ledger.check()
            held = [units for units in ledger.units if units.free != units.total]
            self.result.problems += [f"{units.total - units.free} {units.name} leaked" for units in held]
        if self._asked:
            self.result.problems.append(f"{len(self._asked)} requests have no end")


def soak(num_requests: int, *, num_questions: int, seed: int = 0, share: int = SHARE, speculations=KINDS) -> Result:
    """So many requests, in equal parts for each kind of speculation."""
    whole, alone = Result(), Alone(questions(num_questions, seed))
    for n, speculation in enumerate(speculations):
        own = num_requests * (n + 1) // len(speculations) - num_requests * n // len(speculations)
        part = Soak(speculation, alone, seed + n, share).run(own)
        whole.counts += part.counts + Counter({"requests": own})
        whole.problems += [f"{speculation}: {problem}" for problem in part.problems]
        whole.rss += part.rss
    return whole
