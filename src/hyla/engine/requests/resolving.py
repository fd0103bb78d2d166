"""A request made complete: token ids for texts, a seed, how many tokens it may have. What cannot be is refused here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hyla.engine.requests.facts import CONTEXT_EXCEEDED, EngineFacts
from hyla.engine.requests.messages import Request
from hyla.engine.requests.params import SamplingParams
from hyla.engine.requests.text import TextCodec
from hyla.engine.requests.token_ids import bad_word_ids, check_token_ids
from hyla.engine.sampling.grammar import Grammar, GrammarCompiler
from hyla.errors import CapacityError, FieldError, RequestError
from hyla.grid import CHUNK, num_pages_for

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Resolved:
    """A request that the engine can do."""

    request: Request
    """The request with token ids, max_tokens and seed in place."""
    grammars: tuple[Grammar, ...] = ()
    """At their start, one compiled for each choice: copies of one share its limits (`grammar.LIMITS`), so that a choice
    could end in an error because of its siblings. None without a grammar."""


@dataclass(frozen=True)
class Resolver:
    """What an engine can do, for the question whether it can do a request. Changes nothing, so any thread may ask.

    It knows the engine by its facts alone, so it may stand in another process than the model.
    """

    facts: EngineFacts
    tokenizer: TextCodec | None
    grammars: GrammarCompiler

    def resolve(self, request: Request) -> Resolved:
        """The request, complete. Reads the engine only, so any thread may call it.

        Raises RequestError for what the model cannot do, CapacityError for what the caches can never hold.
        """
        ids = self._prompt_ids(request.prompt)
        params = self._resolve_words(request.params)
        room = self.facts.context_len - len(ids)
        answers = params.max_tokens != 0
        if room < int(answers):
            need = ", of which the answer needs at least one" if answers else ""
            raise FieldError(
                f"the prompt has {{value}} tokens and the context {{limit}}{need}; shorten the prompt",
                "prompt",
                CONTEXT_EXCEEDED,
                value=len(ids),
                limit=self.facts.context_len,
            )
        if (params.max_tokens or 0) > room:
            raise FieldError(
                "{max_tokens} is {value}, but the prompt's {num_prompt} tokens leave {limit} of the context's "
                "{context}; ask for fewer or shorten the prompt",
                "max_tokens",
                CONTEXT_EXCEEDED,
                value=params.max_tokens,
                limit=room,
                num_prompt=len(ids),
                context=self.facts.context_len,
            )
        most = self._fitting_tokens(len(ids), params.max_tokens, room)
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        params = params.model_copy(update={"max_tokens": most, "seed": seed})
        form, num_choices = params.grammar, params.n
        grammars = self.grammars.compile_each(form, num_choices) if form is not None else ()
        return Resolved(replace(request, prompt=ids, params=params), grammars)

    def _resolve_words(self, params: SamplingParams) -> SamplingParams:
        """The parameters with token ids instead of words. Raises RequestError for what model or tokenizer cannot do."""
        if params.stop and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer; give stop_token_ids or Engine(..., tokenizer=)", "stop")
        if params.router_choices and self.facts.routers is None:
            raise RequestError("router_choices: this model has no experts to choose; leave it out", "router_choices")
        params = params.model_copy(update={"bad_words": bad_word_ids(params.bad_words, self.tokenizer)})
        check_token_ids(params, self.facts.vocab_size)
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
        self.facts.check_ids(ids, "the prompt")
        return ids

    def _fitting_tokens(self, num_prompt: int, max_tokens: int | None, room: int) -> int:
        """Tokens to generate at most; raises CapacityError when the pages can never hold them."""
        capacity = self.facts.num_pages * CHUNK
        # The last token is returned but never computed, so it needs no row.
        if num_prompt + (max_tokens or 1) - 1 > capacity:
            raise CapacityError(
                f"the prompt's {num_prompt} tokens and an answer of {max_tokens or 1} need "
                f"{num_pages_for(num_prompt + (max_tokens or 1) - 1)} pages of {CHUNK} tokens and the caches have "
                f"{self.facts.num_pages}; shorten them or give the engine more with memory="
            )
        return max_tokens if max_tokens is not None else min(room, capacity + 1 - num_prompt)
