"""The next token of one choice, as a state machine over its tokens.

What happens to a row of the model's logits, in this order:

1. a token that is forced (the end of thinking when its budget is spent) is the answer, and nothing else counts;
2. penalties: repetition, then frequency and presence, in float64 like all that follows;
3. `logit_bias` is added;
4. bans: what is not in `allowed_token_ids`; what the grammar does not allow, from the end of thinking on; before that,
   with a grammar, what would end the text; stop ids before `min_tokens`; tokens that complete one of `bad_words`;
5. temperature 0: the largest logit, the lowest id on a tie; otherwise temperature, top-k, top-p, min-p, and Gumbel-max
   with the noise of (seed, choice, position) (`engine.sampling.sampler`).

So the token is a function of the row, the parameters, the seed, the choice, the position and the tokens so far. Only
where a sampled draft stands (`acceptance="rejection"`) it depends on the draft and its distribution as well
(`engine.sampling.acceptance`).
Log-probabilities are taken from the row as the model gave it; with `sampled_logprobs` also from what the token was
drawn from: the row after 2 to 4 in fp32, with -inf for what bans and filters leave out, divided by the temperature. A
draft changes nothing in that: its token is one of the target's distribution in both ways of accepting it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from hyla.engine.requests.messages import TokenLogprob
from hyla.engine.requests.options import Acceptance
from hyla.engine.requests.params import SamplingParams
from hyla.engine.sampling.acceptance import Distribution, Draft, settle
from hyla.engine.sampling.grammar import Grammar
from hyla.engine.sampling.noise import DRAFTING, NoiseKey
from hyla.engine.sampling.penalties import Penalties
from hyla.engine.sampling.sampler import (
    draw,
    drawn,
    filtered,
    greedy,
    gumbel_argmax,
    logprobs_of,
    row_of_kept,
    sampled_logprobs,
)
from hyla.engine.sampling.thinking import Thinking
from hyla.engine.sampling.together import Row

NOT_NUMBERS = "the model's logits are not numbers (NaN); check the weights"


class Chooser:
    """Chooses the tokens of one choice of a resolved request. Whoever uses it tells it each token with `advance`.

    params: resolved: a seed, and bad words as token ids. prompt: token ids. stop_ids: what ends the text.
    grammar: at its start, and this chooser's own.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        *,
        choice: int,
        stop_ids: Iterable[int] = (),
        grammar: Grammar | None = None,
    ):
        self.params, self.choice = params, choice
        self._num_prompt = len(prompt)
        self.stop_ids = frozenset(stop_ids)
        self.num_tokens = 0
        """Tokens of the answer so far."""
        self.problem: str | None = None
        """Why the last `choose` found no token."""
        self.sampled: float | None = None
        """ln p of the token of the last `choose` under what it was drawn from, where the parameters want it."""
        self._stops = np.array(sorted(self.stop_ids), dtype=np.int64)
        self._penalties = Penalties(params, prompt)
        self._thinking = Thinking(params, prompt)
        self._bad_words = tuple(tuple(word) for word in params.bad_words)
        self._keep = max((len(word) - 1 for word in self._bad_words), default=0)
        self._tail = list(prompt[-self._keep :]) if self._keep else []
        self._grammar = grammar
        self._allowed = np.unique(params.allowed_token_ids) if params.allowed_token_ids is not None else None
        self._bias_ids = np.array(list(params.logit_bias), dtype=np.int64)
        self._bias = np.array(list(params.logit_bias.values()), dtype=np.float64)
        self._is_unruled = (
            self._penalties.is_none
            and not params.logit_bias
            and self._allowed is None
            and not self._bad_words
            and grammar is None
            and (params.temperature == 0.0 or (params.top_k == 0 and params.top_p == 1.0 and params.min_p == 0.0))
        )

    @property
    def is_free(self) -> bool:
        """Whether nothing but the temperature stands between the model's logits and the next token, so that rows can be
        done at once (`engine.sampling.together`)."""
        return self._is_unruled and self._thinking.forced is None and not self._must_go_on

    @property
    def is_plain(self) -> bool:
        """Whether the next token is the model's most likely one, the lowest id on a tie."""
        return self.params.temperature == 0.0 and self.is_free

    def row(self, position: int) -> Row:
        """What is asked of the row of a position while `is_free` holds."""
        params = self.params
        key = NoiseKey(params.chosen_seed, self.choice, position)
        return Row(params.temperature, key, params.logprobs, params.sampled_logprobs)

    @property
    def is_thinking(self) -> bool:
        """Whether the next token belongs to thinking."""
        return self._thinking.is_busy

    @property
    def is_complete(self) -> bool:
        """Whether the grammar's text is whole and nothing can follow, so that the choice ends without another token."""
        return self._grammar is not None and not self._thinking.is_busy and self._grammar.is_complete

    @property
    def _must_go_on(self) -> bool:
        """Whether stop ids are banned because the answer is too short."""
        return bool(self.stop_ids) and self.num_tokens < self.params.min_tokens

    @property
    def _may_begin_thinking(self) -> bool:
        """Whether thinking may begin now beside what the grammar allows."""
        is_first = self.num_tokens == 0 and not self._thinking.is_busy and not self._thinking.has_marker_in_prompt
        return is_first and bool(self.params.thinking_start_ids)

    def choose(self, logits_V: torch.Tensor, position: int, draft: Draft | None = None) -> int | None:
        """The token for fp32 logits [V]; None when there is none, and `problem` says why; `sampled` is the token's.
        Changes nothing else.

        position: of the token in the sequence, prompt included. draft: of this token; only a sampled one matters.
        """
        self.problem = self.sampled = None
        forced = self._thinking.forced
        if forced is not None:
            self.sampled = 0.0 if self.params.sampled_logprobs else None
            return forced
        kept = self._kept(logits_V, self._grammar_after())
        if kept is None:
            return None
        key = NoiseKey(self.params.chosen_seed, self.choice, position)
        if self.params.temperature == 0.0:
            return draw(*kept, self.params, key)
        scaled, ids = filtered(*kept, self.params)
        if draft is None or draft.source is None:
            token = drawn(scaled, ids, key)
        else:
            token = settle(Distribution.of(scaled, ids), draft, key)
        if self.params.sampled_logprobs:
            row_1V = row_of_kept(*kept, ids, len(logits_V)).to(logits_V.device)
            (self.sampled,) = sampled_logprobs(row_1V, [token], self.params.temperature)
        return token

    def guess(self, logits_V: torch.Tensor, before: Sequence[Draft], acceptance: Acceptance = "exact") -> Draft | None:
        """A draft of the token after the drafts `before`, from a drafter's logits [V], by the same rules; the grammar
        alone looks at those drafts.

        "exact": with the noise of the target's token, so that the two often agree. "rejection": a sample of its own;
        without temperature, and where a token is forced, there is nothing to sample, and it is the same as "exact".
        """
        if self.is_plain:
            token = greedy(logits_V[None])[0]
            return Draft(token) if token is not None else None
        if not before and self._thinking.forced is not None:
            return Draft(self._thinking.forced)
        kept = self._kept(logits_V, self._grammar_after(before))
        self.problem = None
        if kept is None:
            return None
        depth = len(before)
        key = NoiseKey(self.params.chosen_seed, self.choice, self._num_prompt + self.num_tokens + depth)
        if acceptance == "exact" or self.params.temperature == 0.0:
            return Draft(draw(*kept, self.params, key))
        scaled, ids = filtered(*kept, self.params)
        source = Distribution.of(scaled, ids)
        place = gumbel_argmax(scaled, ids, key._replace(purpose=DRAFTING, depth=depth))
        return Draft(int(source.support[place]), source)

    def _grammar_after(self, drafts: Sequence[Draft] = ()) -> Grammar | None:
        """The grammar as it would stand after drafts; None where it does not hold (yet)."""
        if self._grammar is None or self._thinking.is_busy:
            return None
        if not drafts:
            return self._grammar
        grammar = self._grammar.ahead().copy()
        for draft in drafts:
            grammar.advance(draft.token)
        return grammar

    def _kept(self, logits_V: torch.Tensor, grammar: Grammar | None) -> tuple[np.ndarray, np.ndarray | None] | None:
        """float64 logits and ids (ascending; None: all) after penalties, bias and bans; None when nothing is left."""
        row_V = np.array(logits_V.cpu().numpy(), dtype=np.float64)
        if not np.isfinite(row_V.max()):
            self.problem = NOT_NUMBERS
            return None
        self._penalties.apply(row_V)
        row_V[self._bias_ids] += self._bias
        self._ban(row_V)
        ids = self._candidates(len(row_V), grammar)
        values = row_V if ids is None else row_V[ids]
        if len(values) == 0 or values.max() == -np.inf:
            self.problem = self._why_nothing()
            return None
        return values, ids

    def _ban(self, row_V: np.ndarray) -> None:
        """Set what single rules forbid to -inf."""
        for word in self._bad_words:
            start = len(self._tail) - len(word) + 1
            if start >= 0 and tuple(self._tail[start:]) == word[:-1]:
                row_V[word[-1]] = -np.inf
        if self._must_go_on or (self._grammar is not None and self._thinking.is_busy):
            row_V[self._stops] = -np.inf

    def _candidates(self, vocab: int, grammar: Grammar | None) -> np.ndarray | None:
        """Ids, ascending, that the grammar and the allowed ids leave; None: all."""
        if grammar is None:
            return self._allowed
        mask_V = grammar.mask(vocab)
        if grammar.is_accepting:
            mask_V[self._stops] = True
        if grammar is self._grammar and self._may_begin_thinking:
            mask_V[self.params.thinking_start_ids[0]] = True
        return np.flatnonzero(mask_V) if self._allowed is None else self._allowed[mask_V[self._allowed]]

    def _why_nothing(self) -> str:
        if self._grammar is None:
            return "no token is allowed here; loosen allowed_token_ids, bad_words or min_tokens"
        problem = self._grammar.problem
        if problem is not None:
            return f"the grammar cannot go on: {problem}"
        return "the grammar allows no token here that everything else allows as well; loosen one of them"

    def advance(self, token_id: int) -> None:
        """The answer goes on with this token."""
        grammar = self._grammar
        if grammar is not None and not self._thinking.is_busy:
            begins = self._may_begin_thinking and token_id == self.params.thinking_start_ids[0]
            is_allowed = grammar.num_allowed([token_id]) == 1
            if begins and not is_allowed:
                self._thinking.begin()
            elif is_allowed or token_id not in self.stop_ids:
                grammar.advance(token_id)
        self._thinking.advance(token_id)
        self._penalties.advance(token_id)
        if self._keep:
            self._tail = [*self._tail, token_id][-self._keep :]
        self.num_tokens += 1

    def num_allowed(self, draft: Sequence[int]) -> int:
        """How many drafted tokens, one after the other, a forced token or the grammar leaves possible.

        A cheap upper bound of what `choose` can agree with, which has the last word.
        """
        forced = self._thinking.forced
        if forced is not None:
            return int(bool(draft) and draft[0] == forced)
        if self._grammar is None or self._thinking.is_busy or not draft:
            return len(draft)
        count = self._grammar.ahead().num_allowed(draft)
        ends = count < len(draft) and draft[count] in self.stop_ids
        begins = count == 0 and self._may_begin_thinking and draft[0] == self.params.thinking_start_ids[0]
        return count + int(ends or begins)

    def allows(self, token_id: int) -> bool:
        """Whether `num_allowed` leaves this token possible as the next one."""
        return self.num_allowed([token_id]) == 1

    def logprob(self, logits_V: torch.Tensor, token_id: int) -> TokenLogprob | None:
        """The log-probability of the token that was chosen last under the model's own distribution, with as many others
        as the parameters want, and `sampled`; None when they want none."""
        if self.params.logprobs is None:
            return None
        (entry,) = logprobs_of(logits_V[None], [token_id], self.params.logprobs)
        return entry if self.sampled is None else replace(entry, sampled=self.sampled)
