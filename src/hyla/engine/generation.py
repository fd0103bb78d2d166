"""One choice of one request while it is computed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Row
from contextlib import contextmanager

import torch

from hyla.caches import Sequence
from hyla.caches.tree import Branch, MissReason
from hyla.engine.requests.messages import FinishReason, Request, TokenEvent, TokenLogprob, Usage
from hyla.engine.requests.options import Acceptance
from hyla.engine.requests.text import Detokenizer, StopStrings, TextCodec
from hyla.engine.routes import RouteRecord
from hyla.engine.sampling.acceptance import Draft
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.grammar import Grammar

logger = logging.getLogger("hyla.engine")


class Generation:
    """Tokens, cache place and text of one choice.

    request: resolved: the prompt is token ids, `params.seed` and `params.max_tokens` are set.
    arrival: order among all generations; a lower one is older and, at the same priority, is never preempted for a
    younger one. arrived: when, on the engine's clock; its deadline counts from there.
    grammar: the request's, compiled, at its start, and this choice's own.
    """

    def __init__(
        self,
        request: Request,
        choice: int,
        *,
        arrival: int,
        eos_ids: Iterable[int],
        tokenizer: TextCodec | None,
        arrived: float = 0.0,
        grammar: Grammar | None = None,
    ):
        self.request, self.choice, self.arrival = request, choice, arrival
        self.priority, self.key = request.priority, request.key
        self.deadline = None if request.deadline_seconds is None else arrived + request.deadline_seconds
        """Time on the engine's clock from which it is too late."""
        self.num_charged = 0
        """One past the last position that its key has paid for."""
        self.num_displaced = 0
        """How often it gave way to a higher priority."""
        self.params = request.params
        self.tokens: list[int] = list(request.prompt_ids)
        self.num_prompt_tokens = len(self.tokens)
        self.most_tokens = self.num_prompt_tokens + self.params.chosen_max_tokens
        self.stop_ids = frozenset(self.params.stop_token_ids) | (set() if self.params.ignore_eos else set(eos_ids))
        self.sequence: Sequence | None = None
        """Its place in the cache while it runs; None while it waits."""
        self.branch: Branch | None = None
        """Where its sequence stands in the prefix cache; None without one."""
        self.marks: set[int] = set()
        """Lengths, multiples of 64, after which its state is to be kept."""
        self.num_cached_tokens: int | None = None
        """Prompt tokens that the prefix cache had when it first started."""
        self.miss_reason: MissReason | None = None
        self.num_drafted = self.num_accepted = 0
        """Draft tokens that were verified, and those that were right."""
        self.weights_version: int | None = None
        """Of the weights that drew its tokens; None: of several, or there is none yet."""
        self.routes = RouteRecord() if self.params.router_choices else None
        """The choices of the model's routers, where they are asked for."""
        self.chooser = Chooser(self.params, self.tokens, choice=choice, stop_ids=self.stop_ids, grammar=grammar)
        """Chooses the next token; `accept` tells it what was chosen."""
        self.num_unscored = min(max(self.params.prompt_logprobs_start, 1), self.num_prompt_tokens)
        """Tokens of the prompt, from the first one on, that get no log-probabilities."""
        self.prompt_logprobs: list[TokenLogprob | None] = [None] * self.num_unscored
        """Log-probabilities of the prompt's first tokens, as far as their rows were computed; filled only where
        `scores_prompt`."""
        self.fault: str | None = None
        """What failed `alone`, if anything has."""
        self._has_given_prompt_logprobs = False
        self._detokenizer = (
            Detokenizer(tokenizer, skip_special_tokens=self.params.skip_special_tokens)
            if tokenizer is not None
            else None
        )
        self._stops = StopStrings(self.params.stop, keeps_stop=self.params.include_stop_str_in_output)
        self._passes_by = False
        """Whether no stop string is looked for in the text of the last token."""

    @property
    def place(self) -> Sequence:
        """`sequence` of a generation that runs."""
        if self.sequence is None:
            raise RuntimeError("a generation that waits has no place in the cache")
        return self.sequence

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Tokens whose rows are not computed yet; 1 is a decode."""
        return len(self.tokens) - (self.sequence.length if self.sequence else 0)

    @property
    def scores_prompt(self) -> bool:
        """Whether this choice owes the prompt's log-probabilities, so that rows which give them may not be skipped."""
        return self.params.prompt_logprobs is not None and self.choice == 0

    @property
    def computes_all(self) -> bool:
        """Whether every row of the prompt must be computed."""
        return self.scores_prompt and self.num_unscored == 1

    @property
    def skippable_tokens(self) -> list[int]:
        """The tokens whose rows a cache may save, all but the last of them."""
        return self.tokens[: self.num_unscored] if self.scores_prompt else self.tokens

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=self.num_output_tokens,
            cached_tokens=self.num_cached_tokens or 0,
            miss_reason=self.miss_reason,
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
        )

    def draw_with(self, weights_version: int) -> None:
        """Its next tokens are drawn by these weights."""
        if not self.num_output_tokens:
            self.weights_version = weights_version
        elif self.weights_version != weights_version:
            self.weights_version = None

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> TokenEvent:
        """Append a chosen token, tell the chooser, and read its text; the event says whether it was the last."""
        self.tokens.append(token_id)
        was_thinking = self.chooser.is_thinking
        self.chooser.advance(token_id)
        # The markers are part of thinking.
        self._passes_by = (was_thinking or self.chooser.is_thinking) and not self.params.stop_in_thinking
        text, reason = self._read(token_id)
        if reason is None and len(self.tokens) >= self.most_tokens:
            rest, reason = self._finish_text(), "length"
            text = text + rest if text is not None else None
        return self._event(
            token_ids=(token_id,),
            text=text,
            logprobs=(logprob,) if logprob is not None else (),
            finish_reason=reason,
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Around what the host does for this choice only: a failure is its `fault`, and its neighbours go on."""
        try:
            yield
        except Exception as error:
            logger.exception("choosing a token failed; choice %d of %s ends", self.choice, self.request.request_id)
            self.fault = f"choosing a token failed: {type(error).__name__}: {error}"

    def guess(self, logits_V: torch.Tensor, before: Row[Draft], acceptance: Acceptance) -> Draft | None:
        """A draft of the token after the drafts `before` (`Chooser.guess`); None too where that fails."""
        with self.alone():
            return self.chooser.guess(logits_V, before, acceptance)
        return None

    def end(self, reason: FinishReason, error: str | None = None) -> TokenEvent:
        """Finish without another token: cancelled, failed, or a prompt that was only to be scored."""
        text = None
        with self.alone():
            text = self._finish_text() if self._detokenizer is not None else None
        return self._event(text=text, finish_reason=reason, error=error)

    def _event(self, *, finish_reason: FinishReason | None, **fields) -> TokenEvent:
        scored = None
        if self.scores_prompt and not self._has_given_prompt_logprobs:
            self._has_given_prompt_logprobs = True
            scored = tuple(self.prompt_logprobs) if len(self.prompt_logprobs) == self.num_prompt_tokens else None
        return TokenEvent(
            request_id=self.request.request_id,
            choice=self.choice,
            prompt_logprobs=scored,
            finish_reason=finish_reason,
            usage=self.usage if finish_reason else None,
            weights_version=self.weights_version if finish_reason else None,
            router_choices=self.routes.told(len(self.tokens) - 1) if finish_reason and self.routes else None,
            stop=self._stops.found,
            **fields,
        )

    def _read(self, token_id: int) -> tuple[str | None, FinishReason | None]:
        """The text that became certain, and "stop" when a stop id, a stop string or the grammar's end was reached."""
        may_stop = self.num_output_tokens > self.params.min_tokens
        if may_stop and token_id in self.stop_ids:
            return (self._finish_text() if self._detokenizer is not None else None), "stop"
        shown, found = None, False
        if self._detokenizer is not None:
            shown, found = self._search(self._detokenizer.push(token_id), may_stop=may_stop)
        if not found and self.chooser.is_complete:
            found = True
            shown = shown + self._finish_text() if shown is not None else None
        return shown, "stop" if found else None

    def _search(self, text: str, *, may_stop: bool = True) -> tuple[str, bool]:
        """Look for stop strings, unless it is thinking's text."""
        if self._passes_by:
            return self._stops.pass_by(text), False
        return self._stops.push(text, may_stop=may_stop)

    def _finish_text(self) -> str:
        """The rest of the text: bytes without an end, and what was held back for a stop string."""
        if self._detokenizer is None:
            return ""
        shown, found = self._search(self._detokenizer.flush())
        return shown if found else shown + self._stops.flush()
