"""What goes into the engine and what comes out: plain, serialisable messages; it may live in another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hyla.engine.requests.params import SamplingParams
from hyla.engine.requests.router_choices import RouterChoices
from hyla.errors import FieldError, RequestError

FinishReason = Literal["stop", "length", "dead_end", "cancelled", "deadline", "error"]

MOST_PRIORITY = 100
LONGEST_NAME = 256
"""Characters of a key or a salt."""
LONGEST_DEADLINE_SECONDS = 10**9
MOST_SNAPSHOTS = 64
"""Places of one prompt that a request may name."""


@dataclass(frozen=True)
class Request:
    """One prompt to continue. `params.n` choices of it are computed, each on its own.

    Raises RequestError, whose `param` names the field, for a value out of range.
    """

    request_id: str
    prompt: str | tuple[int, ...]
    """Text (the engine's tokenizer encodes it) or token ids."""
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    """-100 to 100, the lower number first; it may take the place of a running request with a higher number."""
    key: str = ""
    """Whose request this is: keys of one priority share the engine fairly, by tokens."""
    deadline_seconds: float | None = None
    """Time for the whole request, from its arrival; what is unfinished then ends with finish_reason "deadline"."""
    cache_salt: str = ""
    """Requests with different salts never share cached states."""
    snapshot_at: tuple[int, ...] = ()
    """Prompt positions, in tokens, whose state is worth keeping; each is rounded down to a multiple of 64."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt of a resolved request."""
        if isinstance(self.prompt, str):
            raise RequestError("the prompt of this request is a text still; resolve the request first", "prompt")
        return self.prompt

    def __post_init__(self):
        if type(self.priority) is not int or abs(self.priority) > MOST_PRIORITY:
            raise FieldError(
                "{priority} = {value!r}: give an integer from -{limit} (first) to {limit}",
                "priority",
                value=self.priority,
                limit=MOST_PRIORITY,
            )
        for name, value in (("key", self.key), ("cache_salt", self.cache_salt)):
            if not isinstance(value, str) or len(value) > LONGEST_NAME:
                template = f"{{{name}}} = {{value!r:.60}}: give a text of at most {{limit}} characters"
                raise FieldError(template, name, value=value, limit=LONGEST_NAME)
        places = self.snapshot_at
        if len(places) > MOST_SNAPSHOTS or not all(type(place) is int and place >= 0 for place in places):
            raise FieldError(
                "{snapshot_at} = {value!r:.60}: give at most {limit} token positions from 0 on",
                "snapshot_at",
                value=places,
                limit=MOST_SNAPSHOTS,
            )
        seconds = self.deadline_seconds
        if seconds is not None and not _is_duration(seconds):
            raise FieldError(
                "{deadline_seconds} = {value!r:.60}: give a number of seconds above 0, or None for no deadline",
                "deadline_seconds",
                value=seconds,
                limit=LONGEST_DEADLINE_SECONDS,
            )


def _is_duration(seconds) -> bool:
    return type(seconds) in (int, float) and 0 < seconds <= LONGEST_DEADLINE_SECONDS


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probabilities of the model's own distribution: before penalties, bias, bans, temperature, filters.
    `sampled` alone is another's."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely ids with their log-probabilities, best first."""
    rank: int | None = None
    """1: the most likely one. Equally likely ids count as better when they are lower."""
    sampled: float | None = None
    """ln p under what the token was drawn from (`SamplingParams.sampled_logprobs`); None: not requested."""


@dataclass(frozen=True)
class Usage:
    """How many tokens a choice took, and how many of them were cached or guessed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens whose state came from an earlier request."""
    miss_reason: str | None = None
    """Why no token was cached (`caches.tree.MissReason`); None when some were."""
    drafted_tokens: int = 0
    """Draft tokens that were verified."""
    accepted_tokens: int = 0
    """Drafts that were right, so that they are tokens of the answer."""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class TokenEvent:
    """What is new of one choice. The last event of a choice has a finish_reason and its usage."""

    request_id: str
    choice: int
    token_ids: tuple[int, ...] = ()
    text: str | None = None
    """Text that is certain now: it ends with a whole character and cannot be the start of a stop string. None when the
    engine has no tokenizer."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One per token id, when requested."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """In the first event of choice 0, when requested: one per token of the prompt, None for the first."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    stop: str | None = None
    """The stop string that ended it, if one did."""
    error: str | None = None
    """What went wrong, with finish_reason "error"; with "dead_end", what left no token to go on with."""
    retry_after_seconds: int | None = None
    """With an error that is not the request's: after how many seconds the same request may succeed."""
    weights_version: int | None = None
    """With a finish_reason: of the weights that drew every token of the choice (`Engine.weights_version`); None: of
    several, or none was drawn."""
    router_choices: RouterChoices | None = None
    """With a finish_reason, when requested: of prompt and answer."""


@dataclass(frozen=True)
class Completion:
    """One finished choice."""

    request_id: str
    choice: int
    token_ids: tuple[int, ...]
    """Every generated id, the one that ended it (end of text, stop id) included."""
    text: str | None
    """The answer without stop strings and special tokens; None without a tokenizer."""
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None
    """One per token of the prompt, None for the first; None when not requested, or when it ended before that."""
    finish_reason: FinishReason
    usage: Usage
    seed: int
    """The request's seed, or the one drawn for it: asking again with it gives the same tokens."""
    error: str | None = None
    weights_version: int | None = None
    """Of the weights that drew it (`TokenEvent`)."""
    router_choices: RouterChoices | None = None
    """Of prompt and answer, when requested; None, too, when no row was computed."""
