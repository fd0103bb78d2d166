"""One step: the packed batch through the model, logits of the rows that need them, the tokens they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hyla.caches import Cache
from hyla.engine.drafts.protocol import Drafter, Part
from hyla.engine.generation import Generation
from hyla.engine.observing import StepObserver
from hyla.engine.requests.messages import TokenEvent
from hyla.engine.routes import RouteWatch, mixtures
from hyla.engine.sampling.choosing import NOT_NUMBERS
from hyla.engine.sampling.sampler import logprobs_of
from hyla.engine.sampling.together import Found, tokens_of_rows
from hyla.models.mtp import Hidden
from hyla.models.recording import StepForward
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ranges import named_range

SCORED_ROWS = 64
"""Prompt rows whose logits exist at once: 64 rows of a vocabulary of 150k are 39 MB."""


@dataclass
class Outcome:
    """What a step brought one generation."""

    generation: Generation
    events: list[TokenEvent] = field(default_factory=list)
    is_scored: bool = False
    """The prompt was only to be scored, and is."""
    problem: str | None = None
    """Why it cannot go on."""
    is_dead_end: bool = False
    """Whether that is what the request itself asks for: it leaves no token."""
    num_accepted: int = 0


class Runner:
    """Runs steps of one model over one cache pool.

    drafter: who fills the parts' drafts; None: nobody. on_commit: told of each generation whose rows were committed.
    record_steps: whether small steps are recorded and made again (`models.recording`).
    """

    def __init__(
        self,
        model: Model,
        cache: Cache,
        *,
        drafter: Drafter | None = None,
        on_commit: Callable[[Generation], None] = lambda generation: None,
        record_steps: bool = True,
    ):
        self.model, self.cache, self.drafter = model, cache, drafter
        self.forward = StepForward(model, is_on=record_steps)
        self.observer: StepObserver | None = None
        self._on_commit = on_commit
        self._num_layers, self._mixtures = len(model.cache_specs()), mixtures(model)

    @torch.inference_mode()
    def step(self, parts: list[Part]) -> list[Outcome]:
        """Compute parts; tokens are chosen where a generation's last known row is, and after each draft that is right.
        An outcome for each generation for which something happened."""
        with named_range("draft"):
            self._draft(parts)
        batch = self.cache.batch(
            [(part.generation.place, part.num_known + len(part.drafts)) for part in parts],
            certain=[part.num_known for part in parts],
        )
        tokens = []
        for part, start in zip(parts, batch.starts):
            tokens += part.generation.tokens[start : start + part.num_known]
            tokens += [draft.token for draft in part.drafts]
        with named_range("forward", len(tokens), "tokens"):
            hidden_TD, next_TD = self._hidden(parts, tokens, batch)
        with named_range("sample"):
            outcomes = self._outcomes(parts, hidden_TD, batch)
        with named_range("commit"):
            for part, outcome in zip(parts, outcomes):
                self.cache.commit(part.generation.place, part.num_known + outcome.num_accepted)
                if outcome.problem is None:
                    self._on_commit(part.generation)
        if self.drafter is not None:
            self.drafter.observe(parts, batch, next_TD)
        return [outcome for outcome in outcomes if outcome.events or outcome.is_scored or outcome.problem]

    def _hidden(self, parts: list[Part], tokens: list[int], batch: Batch) -> Hidden:
        """The forward call, watched by the observer, if there is one; the choices of routers are written down for those
        that ask for them."""
        tokens_T, caches = batch.index(tokens), self.cache.layers[: self._num_layers]
        taps = None if self.observer is None else self.observer.begin(parts, batch, tokens)
        asking = [part.generation.routes for part in parts]
        if any(routes is not None for routes in asking):
            with RouteWatch(self._mixtures) as watch:  # which a recorded step would not see
                hidden = self.model.hidden(tokens_T, batch, caches, observer=taps)
            rows_TLk = watch.rows(self._mixtures[0].router.shape[0])
            for routes, start, offset, length in zip(asking, batch.starts, batch.offsets, batch.lengths):
                if routes is not None:
                    routes.put(start, rows_TLk[offset : offset + length])
        elif taps is not None:
            hidden = self.model.hidden(tokens_T, batch, caches, observer=taps)
        else:
            hidden = self.forward(tokens_T, batch, caches)
        if self.observer is not None:
            self.observer.end(parts, batch, caches, hidden.head_TD)
        return hidden

    def _outcomes(self, parts: list[Part], hidden_TD: torch.Tensor, batch: Batch) -> list[Outcome]:
        """Log-probabilities of prompts, and tokens where a generation's last known row is."""
        outcomes = [Outcome(part.generation) for part in parts]
        ready = []
        for part, outcome, offset in zip(parts, outcomes, batch.offsets):
            if part.generation.scores_prompt and not self._score_prompt(part, hidden_TD[offset:]):
                outcome.problem = NOT_NUMBERS
            elif part.is_last and part.generation.params.max_tokens == 0:
                outcome.is_scored = True
            elif part.is_last:
                ready.append(
                    (part, outcome, range(offset + part.num_known - 1, offset + part.num_known + len(part.drafts)))
                )
        self._choose(ready, hidden_TD, batch)
        return outcomes

    def _draft(self, parts: list[Part]) -> None:
        """Let the drafter fill the parts; drafts that cannot be chosen are cut off."""
        drafting = [part for part in parts if part.num_drafts]
        if not drafting or self.drafter is None:
            return
        self.cache.reserve([(part.generation.place, part.num_known + part.num_drafts) for part in drafting])
        self.drafter.propose(drafting)
        for part in drafting:
            part.cut_off()

    def _score_prompt(self, part: Part, hidden_TD: torch.Tensor) -> bool:
        """Add the log-probabilities of the prompt tokens that follow a generation's new rows, a piece at a time.

        Those that are there already (it was preempted) are not computed again. False: the logits are not numbers.
        """
        generation, count, num_top = part.generation, part.num_known, part.generation.params.prompt_logprobs
        if num_top is None:  # nobody asked
            return True
        first = generation.place.length
        entries, num_prompt = generation.prompt_logprobs, generation.num_prompt_tokens
        while len(entries) < min(first + count + 1, num_prompt):
            begin = len(entries) - 1 - first
            end = min(begin + SCORED_ROWS, count, num_prompt - 1 - first)
            logits_RV = self.model.head_logits(hidden_TD[begin:end])
            if not bool(logits_RV.amax(-1).isfinite().all()):
                return False
            tokens = generation.tokens[first + begin + 1 : first + end + 1]
            entries += logprobs_of(logits_RV, tokens, num_top, generation.params.prompt_temperature)
        return True

    def _choose(self, ready: list[tuple[Part, Outcome, range]], hidden_TD: torch.Tensor, batch: Batch) -> None:
        """Fill the outcomes with the tokens that the logits of each part's rows give."""
        rows = [row for _, _, span in ready for row in span]
        if not rows:
            return
        picked_RD = hidden_TD if len(rows) == hidden_TD.shape[0] else hidden_TD[batch.index(rows)]
        logits_RV = self.model.head_logits(picked_RD)
        free = tokens_of_rows(logits_RV, [row for part, _, _ in ready for row in part.free_rows()])
        first = 0
        for part, outcome, span in ready:
            with part.generation.alone():
                self._verify(part, outcome, logits_RV, free, first)
            if part.generation.fault is not None:
                outcome.problem, outcome.is_dead_end = part.generation.fault, False
            first += len(span)

    @staticmethod
    def _verify(
        part: Part, outcome: Outcome, logits_RV: torch.Tensor, free: list[Found | None] | None, first: int
    ) -> None:
        """Choose token after token from the rows from `first` on, for as long as the drafts before were accepted. free:
        what rows gave that were done at once; None: none were."""
        generation = part.generation
        chooser = generation.chooser
        for row in range(len(part.drafts) + 1):
            found, draft = None if free is None else free[first + row], part.draft_of(row)
            if found is not None and (row == 0 or chooser.is_free):
                token, logprob, problem = found.token, found.logprob, NOT_NUMBERS
            else:
                token = chooser.choose(logits_RV[first + row], len(generation.tokens), draft)
                problem = chooser.problem
                logprob = None if token is None else chooser.logprob(logits_RV[first + row], token)
            if token is None:
                outcome.problem, outcome.is_dead_end = problem, problem != NOT_NUMBERS
                break
            outcome.events.append(generation.accept(token, logprob))
            if outcome.events[-1].finish_reason is not None or row == len(part.drafts):
                break
            if draft is None or token != draft.token:
                break
            outcome.num_accepted += 1
        generation.num_drafted += len(part.drafts)
        generation.num_accepted += outcome.num_accepted
