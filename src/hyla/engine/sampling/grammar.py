"""Structured output: which tokens may come next, by llguidance.

llguidance is MIT-licensed, needs no other package, and refuses what it cannot guarantee. It parses the bytes that
tokens stand for, so a mask is a pure function of the grammar and of the tokens so far.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import tokenizers

from hyla.checkpoints.library_errors import failures_as
from hyla.engine.requests.formats import Format
from hyla.engine.requests.text import HasBackend, TextCodec
from hyla.engine.sampling.trial import Trials
from hyla.errors import FieldError, RequestError

if TYPE_CHECKING:
    # Imported where it is used: most engines never need it.
    import llguidance
    from llguidance._lib import JsonCompileOptions

MOST_SECONDS = 4.0
"""Work that compiling the grammars of one request may take, where they are tried first."""
END_MARK = "<|hyla:end of grammar|>"
"""llguidance wants a token that ends a text. It gets one that no model has, and is asked whether a text may end."""
LIMITS = {"initial_lexer_fuel": 200_000, "step_lexer_fuel": 50_000, "max_lexer_states": 50_000}
"""Work that llguidance may do for a grammar: tens of milliseconds to compile it, a few for a step."""
USED_UP = ("too many states", "too many expressions")
"""What llguidance says when a compilation has made as much of something as it may."""


class Grammar:
    """A grammar and where a text stands in it.

    The work that llguidance may do (LIMITS) counts for a compilation with all its copies. So each choice has a
    compilation of its own, and what only looks ahead, at drafts that may be wrong, works on another one: `ahead`. Where
    a long text has used up the states of its compilation, it goes on in a new one.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        num_tokens: int,
        compile_again: Callable[[], llguidance.LLMatcher],
        tokens: Sequence[int] = (),
    ):
        """tokens: those that the matcher has followed."""
        self._matcher, self._num_tokens, self._compile_again = matcher, num_tokens, compile_again
        self._tokens = list(tokens)
        self._num_renewed = 0
        """How many tokens there were when the compilation was last renewed."""
        self._ahead: Grammar | None = None

    def copy(self) -> Grammar:
        """The same place, to go on from elsewhere. It shares the limits."""
        copied = Grammar(self._matcher.deep_copy(), self._num_tokens, self._compile_again, self._tokens)
        copied._num_renewed = self._num_renewed
        return copied

    def ahead(self) -> Grammar:
        """The same place in a compilation that shares nothing with this one. Not to be advanced; `copy` it."""
        if self._ahead is None:
            self._ahead = Grammar(self._compile_again(), self._num_tokens, self._compile_again)
        for token in self._tokens[len(self._ahead._tokens) :]:
            self._ahead.advance(token)
        return self._ahead

    def _has_renewed(self) -> bool:
        """Go on in a new compilation, where this one has used up its states. Following a text again costs far fewer of
        them than asking at each of its places what may come; not to pay for that at each token, only after some."""
        if not any(words in self._matcher.get_error() for words in USED_UP):
            return False
        if len(self._tokens) - self._num_renewed < 64 + len(self._tokens) // 64:
            return False
        self._matcher, self._num_renewed = self._compile_again(), len(self._tokens)
        self._matcher.consume_tokens(self._tokens)
        return not self._matcher.is_error()

    @property
    def problem(self) -> str | None:
        """Why the grammar cannot go on, when it broke."""
        return first_line(self._matcher.get_error()) if self._matcher.is_error() else None

    @property
    def is_accepting(self) -> bool:
        """Whether the text so far is a whole one."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole and no token can follow."""
        return self.is_accepting and self._matcher.is_stopped()

    def mask(self, vocab: int) -> np.ndarray:
        """bool [vocab]: which ids may follow; none when the grammar is complete or broke."""
        mask = np.zeros(vocab, dtype=bool)
        if not self._matcher.is_error() and not self._matcher.is_stopped():
            packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            if self._matcher.is_error() and self._has_renewed():
                packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            bits = np.unpackbits(packed, bitorder="little", count=self._num_tokens)[:vocab]
            mask[: len(bits)] = bits if not self._matcher.is_error() else 0
        return mask

    def num_allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, one after the other, the grammar allows from here."""
        known = next((n for n, token in enumerate(tokens) if token >= self._num_tokens), len(tokens))
        if self._matcher.is_error():
            return 0
        count = self._matcher.validate_tokens(list(tokens[:known]))
        if self._matcher.is_error() and self._has_renewed():
            count = self._matcher.validate_tokens(list(tokens[:known]))
        return count

    def advance(self, token_id: int) -> None:
        """The text goes on with this token; one that is not allowed breaks the grammar."""
        was_broken = self._matcher.is_error()
        is_followed = self._matcher.consume_token(token_id)
        self._tokens.append(token_id)
        if not is_followed and not was_broken:
            self._has_renewed()


class GrammarCompiler:
    """Compiles formats for one tokenizer, on any thread; reads its vocabulary when it is first asked."""

    def __init__(self, tokenizer: TextCodec | None):
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._trials: Trials | None = None
        self._has_trials = False

    def try_first(self) -> None:
        """From now on try each grammar in a process of its own, and compile only what passes there."""
        self._has_trials = hasattr(os, "fork")

    def compile_each(self, form: Format, num: int) -> tuple[Grammar, ...]:
        """One compilation for each of some choices. Raises RequestError, as `compile`."""
        source = _source_of(form)
        seconds = self._try(form, source)
        if seconds * num > MOST_SECONDS:
            raise _refusal(
                form, f"{num} choices with it take more than {MOST_SECONDS} s of work; ask for fewer at once"
            )
        return tuple(self._compile(form, source) for _ in range(num))

    def _try(self, form: Format, source: str) -> float:
        """Seconds of work that compiling takes; 0.0 where nothing is tried."""
        if not self._has_trials:
            return 0.0
        self._read_vocabulary()
        with self._lock:
            if self._trials is None:
                text, end = _marked(self._tokenizer)
                self._trials = Trials(text, end, LIMITS)
        found = self._trials.verdict(source)
        if found.problem:
            raise _refusal(form, found.problem)
        return found.seconds

    def compile(self, form: Format) -> Grammar:
        """Raises RequestError for what cannot be met, is not understood, or takes too much work."""
        return self._compile(form, _source_of(form))

    def _compile(self, form: Format, source: str) -> Grammar:
        import llguidance

        vocabulary = self._read_vocabulary()
        make = partial(llguidance.LLMatcher, vocabulary, source, log_level=0, limits=_limits())
        try:
            matcher = make()
        except ValueError as error:
            raise _refusal(form, str(error)) from error
        # The end mark is the vocabulary's last token.
        grammar = Grammar(matcher, vocabulary.vocab_size - 1, make)
        ignored = [] if matcher.is_error() else matcher.get_grammar_warnings()
        if ignored:
            raise _refusal(form, "; ".join(ignored))
        # The first step finds what is too much work, or allows nothing.
        has_start = grammar.mask(vocabulary.vocab_size).any()
        if matcher.is_error():
            raise _refusal(form, matcher.get_error())
        if not has_start:
            raise _refusal(form, "no text but the empty one fits it")
        return grammar

    def _read_vocabulary(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary_of(self._tokenizer)
            return self._vocabulary


def _limits() -> llguidance.LLParserLimits:
    import llguidance

    return llguidance.LLParserLimits(
        initial_lexer_fuel=LIMITS["initial_lexer_fuel"],
        step_lexer_fuel=LIMITS["step_lexer_fuel"],
        max_lexer_states=LIMITS["max_lexer_states"],
        verbose_errors=False,
    )


def _vocabulary_of(tokenizer: TextCodec | None) -> llguidance.LLTokenizer:
    import llguidance

    text, end = _marked(tokenizer)
    with _unsuitable():
        vocabulary = llguidance.LLTokenizer(text, eos_token=[end])
    if vocabulary.vocab_size != end + 1:
        raise RequestError("structured output does not work with this tokenizer: its ids have gaps", "grammar")
    return vocabulary


def _unsuitable() -> AbstractContextManager[None]:
    """What the libraries say of a tokenizer that no grammar can follow, as a RequestError."""
    return failures_as(
        lambda reason: RequestError(f"structured output does not work with this tokenizer: {reason}", "grammar")
    )


def _marked(tokenizer: TextCodec | None) -> tuple[str, int]:
    """A tokenizer with END_MARK, as text, and the mark's id."""
    backend = tokenizer.backend if isinstance(tokenizer, HasBackend) else None
    if not isinstance(backend, tokenizers.Tokenizer):
        raise RequestError(
            "structured output needs the engine to have a tokenizer of the tokenizers library "
            "(hyla.checkpoints.load_tokenizer reads one)",
            "grammar",
        )
    with _unsuitable():
        copy = tokenizers.Tokenizer.from_str(backend.to_str())
        copy.no_padding()
        copy.no_truncation()
        _forget_cuts(copy)
        copy.add_special_tokens([END_MARK])
        end = copy.token_to_id(END_MARK)
        if end is None:
            raise ValueError("it takes no end mark")
        return copy.to_str(), end


def _source_of(form: Format) -> str:
    """`source_of`, whose errors are RequestErrors."""
    try:
        return source_of(form)
    except ValueError as error:
        raise _refusal(form, str(error)) from error


def _forget_cuts(backend: tokenizers.Tokenizer) -> None:
    """Expressions that cut text before it is encoded. A grammar follows tokens as they come and encodes none, and
    llguidance compiles expressions in another library, which does not take all of them."""
    from tokenizers import pre_tokenizers

    steps = backend.pre_tokenizer
    if isinstance(steps, pre_tokenizers.Sequence):
        kept = [step for step in steps if not isinstance(step, pre_tokenizers.Split)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(kept)


def source_of(form: Format) -> str:
    """The grammar in llguidance's own form. Raises ValueError where the text cannot even be read."""
    import llguidance

    from hyla.answers.constraints import strictness
    from hyla.answers.followable import followable

    if form.type == "json_object":
        return llguidance.LLMatcher.grammar_from_json_schema({"type": "object"})
    if form.type == "json_schema":
        if form.json_schema is False:
            raise ValueError("nothing is valid under the schema false")
        schema = followable(form.json_schema)
        if schema is False:
            raise ValueError("no finite value is valid under the schema: it refers to itself without an end")
        schema = {} if schema is True else schema
        options = cast("JsonCompileOptions", strictness(schema))
        return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    if form.type == "regex":
        return llguidance.LLMatcher.grammar_from_regex(form.pattern)
    if form.type == "lark":
        return llguidance.LLMatcher.grammar_from_lark(form.text)
    text = json.dumps(form.options) if form.type == "choice" else form.text
    return llguidance.grammar_from(form.type, text)


def first_line(message: str, most: int = 300) -> str:
    """What llguidance says, without the grammar and the state that it prints below."""
    if message.startswith("panic"):
        return "it is too large for the grammar's compiler"
    text = " ".join(re.split(r"<state>|\s\d+ \| ", message)[0].replace("<non-verbose/>", "").split())
    return text if len(text) <= most else f"{text[:most]}..."


def _refusal(form: Format, message: str) -> RequestError:
    """The refusal of a format. Its place stands apart: the client may never have seen the text that it is in."""
    from hyla.answers.grammar_marks import owner_at

    said = first_line(message)
    place = re.match(r"at (\d+)\(\d+\): ", said)
    owner = owner_at(form.text, int(place[1])) if place and form.type == "lark" else None
    return FieldError(
        "the {form}{owner} cannot be used: {place}{reason}",
        "grammar",
        form=form.type.replace("_", " "),
        owner="" if owner is None else f" ({owner!r})",
        place=place[0] if place else "",
        reason=said[place.end() :] if place else said,
    )
