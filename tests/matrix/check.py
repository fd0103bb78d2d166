"""Computes the answer of one cell of the exactness matrix and compares it with the plain one."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import cache

import torch
from matrix.cells import Cell
from matrix.subject import TINY, Subject

from hyla.engine import Completion, Engine, Request, SamplingParams
from hyla.engine.requests.collect import Collector
from hyla.engine.sampling.sampler import logprobs_of

PROMPT_LEN = 137
"""Two whole pages and some tokens; the answer crosses the next page's beginning and a 16-row block."""
NUM_TOKENS = 62
SHARED_LEN = 133
"""Tokens of the prompt that an earlier one begins with, where the prefix cache is on."""

OnStep = Callable[[Engine, int], None]


def prompt(subject: Subject) -> tuple[int, ...]:
    """The subject's: its end repeats itself, which a lookup finds."""
    draw = random.Random(1)
    a, b, c, d = subject.few_ids
    return tuple(draw.randrange(subject.vocab) for _ in range(PROMPT_LEN - 30)) + (a, b, a, c, d, b) * 5


def params_of(sampling: str, subject: Subject) -> SamplingParams:
    temperature, few = {"greedy": 0.0, "sampled": 1.5}[sampling], subject.few_ids
    return SamplingParams(max_tokens=NUM_TOKENS, temperature=temperature, seed=9, logprobs=2, allowed_token_ids=few)


@cache
def plain_answer(mixer: str, dtype: str, sampling: str, subject: Subject) -> Completion:
    """Alone, without prefix cache, drafts and recorded steps, the prompt in one piece."""
    options = {"max_num_sequences": 1, "prefix_cache": False, "prefill_chunk": 256, "record_steps": False}
    engine = Engine(subject.model_of(mixer, dtype), memory=subject.memory, **options)
    (answer,) = engine.generate([prompt(subject)], params_of(sampling, subject))
    return answer


@cache
def logits_of_whole_text(mixer: str, dtype: str, sampling: str, subject: Subject) -> torch.Tensor:
    """[NUM_TOKENS, vocab] rows that give the plain answer's tokens, from one call of the model over its whole text."""
    answer = plain_answer(mixer, dtype, sampling, subject)
    with torch.inference_mode():
        (rows,) = subject.model_of(mixer, dtype).logits([[*prompt(subject), *answer.token_ids[:-1]]])
    return rows[PROMPT_LEN - 1 :]


def forget() -> None:
    """Plain answers are computed anew; before and after another arithmetic."""
    plain_answer.cache_clear()
    logits_of_whole_text.cache_clear()


def neighbours(cell: Cell, subject: Subject) -> list[Request]:
    """Random requests beside the subject, a third of them with the beginning of its prompt."""
    draw = random.Random(cell.name)
    found = []
    for n in range(cell.batch - 1):
        own = tuple(draw.randrange(subject.vocab) for _ in range(draw.randint(1, 90)))
        shared = prompt(subject)[: draw.choice((64, 100, 128))] if n % 3 == 0 else ()
        params = SamplingParams(
            max_tokens=draw.randint(1, 40),
            temperature=draw.choice((0.0, 1.0)),
            seed=n,
            allowed_token_ids=draw.choice((None, subject.few_ids)),
        )
        found.append(Request(f"neighbour-{n}", (*shared, *own), params))
    return found


def engine_of(cell: Cell, subject: Subject, spill_folder: str | None = None) -> Engine:
    return Engine(
        subject.model_of(cell.mixer, cell.dtype),
        memory=subject.memory,
        max_num_sequences=cell.batch,
        prefix_cache=cell.prefix == "on",
        prefill_chunk=cell.chunk,
        speculation=cell.speculation,
        draft_model=subject.draft_model() if cell.speculation == "draft" else None,
        fixed_drafts=True,
        max_draft_tokens=5,
        spill_folder=spill_folder,
        spill_min_tokens=64,
    )


def run_cell(cell: Cell, on_step: OnStep = lambda engine, step: None, subject: Subject = TINY) -> list[str]:
    """What differs from the plain answer, or was not exercised; empty for a cell that passes.

    on_step: called before each step of the answer, for faults.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = _prepared(cell, subject, folder)
        answer, widest = _answer(engine, cell, subject, on_step)
        engine.close()
    engine.cache.ledger.check()
    held = [units.name for units in engine.cache.ledger.units if units.used]
    found = differences(cell, subject, answer) + _unexercised(engine, cell, answer, widest)
    return found + [f"{name} are held" for name in held]


def _prepared(cell: Cell, subject: Subject, folder: str) -> Engine:
    """The engine with the cell's past; a restarted one is new, and finds on disk what another one has left there."""
    if cell.history != "restarted":
        engine = engine_of(cell, subject)
        _prepare(engine, cell, prompt(subject))
        return engine
    before = engine_of(cell, subject, folder)
    _prepare(before, cell, prompt(subject))
    before.close()
    return engine_of(cell, subject, folder)


def _prepare(engine: Engine, cell: Cell, prompt: tuple[int, ...]) -> None:
    """An earlier prompt with the subject's beginning; and, for aborted neighbours, one that is cancelled half-way."""
    if cell.prefix == "on":
        engine.generate([(*prompt[:SHARED_LEN], 5, 6)], SamplingParams(max_tokens=3, seed=1))
    if cell.history == "aborted":
        # It leaves a state that is no multiple of anything in the slot, which the subject may get next.
        engine.add(Request("before", prompt[::-1], SamplingParams(max_tokens=40, seed=2)))
        for _ in range(PROMPT_LEN // min(cell.chunk, PROMPT_LEN) + 3):
            engine.step()
        engine.cancel("before")


def _answer(engine: Engine, cell: Cell, subject: Subject, on_step: OnStep) -> tuple[Completion, int]:
    """The answer among its neighbours, and how many sequences were computed at once."""
    draw = random.Random(cell.name)
    others = neighbours(cell, subject)
    own = Request("subject", prompt(subject), params_of(cell.sampling, subject))
    waiting = [*others[: len(others) // 2], own, *others[len(others) // 2 :]]
    collector = Collector(own)
    for request in waiting[: cell.batch // 2 + 1]:
        engine.add(request)
    late = waiting[cell.batch // 2 + 1 :]
    widest = 0
    disturbed = {5, 40, 60, PROMPT_LEN // cell.chunk + 9} if cell.history == "preempted" else set()
    for step in range(10_000):
        if collector.is_finished:
            break
        if late and draw.random() < 0.7:
            engine.add(late.pop(0))
        if cell.history == "aborted" and others and draw.random() < 0.3:
            engine.cancel(draw.choice(others).request_id)
        if step in disturbed:
            engine.scheduler.preempt_all()
        on_step(engine, step)
        for event in engine.step():
            if event.request_id == "subject":
                collector.add(event)
        widest = max(widest, len(engine.scheduler.running))
    for request in others:
        engine.cancel(request.request_id)
    engine.take_events()
    (answer,) = collector.completions()
    return answer, widest


def differences(cell: Cell, subject: Subject, answer: Completion) -> list[str]:
    """Against the plain answer, and for greedy ones against the logits of the whole text."""
    plain = plain_answer(cell.mixer, cell.dtype, cell.sampling, subject)
    found = []
    for name in ("token_ids", "logprobs", "finish_reason", "error"):
        mine, theirs = getattr(answer, name), getattr(plain, name)
        if mine != theirs:
            first = next((n for n, (a, b) in enumerate(zip(mine or (), theirs or ())) if a != b), "the end")
            found.append(f"{name} differ from the plain answer's at {first}")
    if cell.sampling == "greedy" and not found:
        rows = logits_of_whole_text(cell.mixer, cell.dtype, cell.sampling, subject)
        few = torch.tensor(subject.few_ids)
        if [subject.few_ids[n] for n in rows[:, few].argmax(-1).tolist()] != list(answer.token_ids):
            found.append("token_ids are not the most likely ones of the whole text's logits")
        if tuple(logprobs_of(rows, list(answer.token_ids), 2)) != answer.logprobs:
            found.append("logprobs are not those of the whole text's logits")
    return found


def _unexercised(engine: Engine, cell: Cell, answer: Completion, widest: int) -> list[str]:
    """Features of the cell that were not really used."""
    usage = answer.usage
    used = {
        "the prefix cache": cell.prefix == "off" or usage.cached_tokens > 0,
        "no prefix cache": cell.prefix == "on" or usage.cached_tokens == 0,
        "drafts": cell.speculation == "off" or usage.drafted_tokens > 0,
        "no drafts": cell.speculation != "off" or usage.drafted_tokens == 0,
        # Cancelled neighbours leave at random; two sequences at once are what can be asked of those that stay.
        "a batch": widest > (min(cell.batch - 1, 1) if cell.history == "aborted" else cell.batch // 4),
        "preemption": cell.history != "preempted" or engine.scheduler.num_preemptions > 0,
    }
    return [f"{name} was not exercised" for name, is_used in used.items() if not is_used]
