"""How to continue a prompt: the sampling parameters, checked when they are made."""

from __future__ import annotations

import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyla.engine.requests.formats import Format
from hyla.errors import FieldError, RequestError
from hyla.ops.exact.temperatures import LEAST_TEMPERATURE, MOST_TEMPERATURE

StopString = Annotated[str, Field(min_length=1, max_length=1024)]
TokenId = Annotated[int, Field(ge=0)]
Marker = Annotated[tuple[TokenId, ...], Field(max_length=32)]
BadWord = StopString | Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=64)]


class SamplingParams(BaseModel):
    """Frozen; a wrong value or name is a `RequestError` whose `param` names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens to generate; None: to the end of the context. 0, with prompt_logprobs and n = 1: score the prompt and
    sample nothing."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """No end of text, stop id or stop string before this many tokens; a text whose grammar is complete ends anyway."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """0: always the most likely token (the lowest id on a tie). Below 1 sharpens, above 1 flattens."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the k most likely tokens; 0: all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the smallest set of most likely tokens that together have this probability."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Only tokens at least this likely relative to the most likely one."""
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] | None = None
    """Sampling noise is a function of (seed, choice, position) alone. None: one is drawn and reported."""
    n: Annotated[int, Field(ge=1, le=128)] = 1
    """Choices to compute for the prompt."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """Above 1: tokens of the prompt and the answer become less likely (positive logits are divided by it, others are
    multiplied). 1: off."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Taken off the logit of every token that the answer already has."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Taken off the logit of a token once for each time that the answer has it."""
    logit_bias: Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=4096)] = {}
    """Added to the logits of these ids. It cannot allow what something else forbids."""
    allowed_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=1 << 18)] | None = None
    """Nothing but these ids; an end of text that is not among them is not sampled. None: all."""
    bad_words: Annotated[tuple[BadWord, ...], Field(max_length=1024)] = ()
    """Token sequences that never appear: the token that would complete one is not sampled, wherever it began. A text
    (needs a tokenizer) stands for the sequences that the tokenizer writes for it alone and after a space; a model can
    still spell it with other tokens."""
    stop: Annotated[tuple[StopString, ...], Field(max_length=64)] = ()
    """Text that ends a choice, also in the middle of a grammar; it is cut off. Needs a tokenizer. In thinking (see
    `thinking_end_ids`) it is not looked for, nor is one of space alone before the first word behind it."""
    stop_in_thinking: bool = False
    """Look for stop strings in thinking, too."""
    include_stop_str_in_output: bool = False
    """Keep the stop string at the end of the text."""
    stop_token_ids: Annotated[tuple[int, ...], Field(max_length=1024)] = ()
    """Token ids that end a choice, beside the model's own end of text."""
    ignore_eos: bool = False
    """Go on after the model's end of text (for measurements)."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    logprobs: Annotated[int, Field(ge=0, le=64)] | None = None
    """Report each token's log-probability and this many of the most likely ids; None: neither. They are those of the
    model's own distribution: before penalties, bias, bans, temperature and filters."""
    sampled_logprobs: bool = False
    """Report for each of these tokens also ln p under the distribution that it was drawn from: after penalties, bias,
    bans and grammar, temperature, and renormalised over what the filters leave; 0 for a token that is forced. With a
    temperature alone it is `hyla.ops.exact.logprobs.of_tokens(logits, token, temperature)`, bit for bit. Of a prompt's
    tokens, which nobody drew, it is that of the temperature alone. At temperature 0 nothing is drawn: refused."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=64)] | None = None
    """The same for each token of the prompt but the first, which nothing predicts. Such a prompt is always computed
    whole, whatever a cache holds of it, from the row that predicts the token `prompt_logprobs_start` on."""
    prompt_logprobs_start: Annotated[int, Field(ge=0)] = 0
    """Tokens of the prompt before this one get no log-probabilities (None stands for each), so that scoring a text
    after a long context costs what the text costs, where the context is cached."""
    router_choices: bool = False
    """Return with the answer which experts the routers chose for each of its tokens and the prompt's
    (`RouterChoices`); tokens whose state was cached have none. A step that is to tell runs without the recording of
    `EngineOptions.record_steps`: the same bits, a little slower."""
    grammar: Format | None = None
    """What the answer must look like. Needs a tokenizer. It holds from the end of thinking on, where there is any."""
    thinking_budget: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of thinking; then its end marker is forced, whatever else is set. None: no limit."""
    thinking_start_ids: Marker = ()
    """The tokens that open thinking. Empty: it is open from the answer's first token, if there is an end marker."""
    thinking_end_ids: Marker = ()
    """The tokens that close thinking. Empty: there is no thinking."""

    thinking_is_open: bool | None = None
    """Whether the answer begins inside thinking. None: the prompt's last marker says so, whoever wrote it there."""

    def __init__(self, **fields):
        if isinstance(fields.get("stop"), str):
            fields["stop"] = (fields["stop"],)
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else None
            if first["type"] == "extra_forbidden" or name is None:
                raise RequestError(f"{name} is not a sampling parameter", param=name) from error
            given = reprlib.repr(first.get("input"))
            template = f"{{{name}}} = {{value}}: {{reason}}"
            raise FieldError(template, name, value=given, reason=first["msg"]) from error

    @property
    def chosen_seed(self) -> int:
        """Of resolved parameters."""
        if self.seed is None:
            raise RequestError("these sampling parameters have no seed yet; resolve the request first", "seed")
        return self.seed

    @property
    def prompt_temperature(self) -> float | None:
        """Of the prompt's `sampled`; None: it is not told."""
        return self.temperature if self.sampled_logprobs else None

    @property
    def chosen_max_tokens(self) -> int:
        """Of resolved parameters."""
        if self.max_tokens is None:
            raise RequestError(
                "these sampling parameters have no max_tokens yet; resolve the request first", "max_tokens"
            )
        return self.max_tokens

    @model_validator(mode="after")
    def _is_possible(self):
        """Values that are right alone and wrong together."""
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise FieldError(
                "{max_tokens} = 0 only scores a prompt; ask for {prompt_logprobs} as well, or for at least one token",
                "max_tokens",
                value=0,
                limit=1,
            )
        if self.max_tokens == 0 and self.n > 1:
            raise FieldError(
                "{max_tokens} = 0 samples nothing, so {n} = {value} choices would be the same",
                "n",
                value=self.n,
                limit=1,
            )
        if self.sampled_logprobs:
            self._check_sampled_logprobs()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise FieldError(
                "{min_tokens} = {value} is more than {max_tokens} = {limit}",
                "min_tokens",
                value=self.min_tokens,
                limit=self.max_tokens,
            )
        if self.thinking_budget is not None and not self.thinking_end_ids:
            raise FieldError(
                "{thinking_budget} needs {thinking_end_ids}, the tokens that close the thinking", "thinking_budget"
            )
        if self.thinking_start_ids and not self.thinking_end_ids:
            raise FieldError("{thinking_start_ids} needs {thinking_end_ids}", "thinking_start_ids")
        if self.thinking_start_ids and self.thinking_start_ids == self.thinking_end_ids:
            raise FieldError("{thinking_start_ids} and {thinking_end_ids} are the same", "thinking_start_ids")
        return self

    def _check_sampled_logprobs(self) -> None:
        """There must be something to tell, and a place for it."""
        if not LEAST_TEMPERATURE <= self.temperature <= MOST_TEMPERATURE:
            raise FieldError(
                "{sampled_logprobs} needs a {temperature} from {least:g} to {most:g}, not {value}: at 0 the likeliest "
                "token is taken, and nothing is drawn",
                "sampled_logprobs",
                value=self.temperature,
                least=LEAST_TEMPERATURE,
                most=MOST_TEMPERATURE,
            )
        if self.logprobs is None and self.prompt_logprobs is None:
            raise FieldError(
                "{sampled_logprobs} is told beside each token's log-probability; ask for {logprobs} (0 or more), too",
                "sampled_logprobs",
            )
