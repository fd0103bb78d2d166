"""How to continue a prompt: the sampling parameters, checked when they are made."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyla.errors import RequestError

StopString = Annotated[str, Field(min_length=1, max_length=1024)]


class SamplingParams(BaseModel):
    """Frozen; a wrong value or name is a `RequestError` whose `param` names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens to generate; None: to the end of the context."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """No end of text, stop id or stop string before this many tokens."""
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
    stop: Annotated[tuple[StopString, ...], Field(max_length=64)] = ()
    """Text that ends a choice; it is cut off. Needs a tokenizer."""
    stop_token_ids: Annotated[tuple[int, ...], Field(max_length=1024)] = ()
    """Token ids that end a choice, beside the model's own end of text."""
    ignore_eos: bool = False
    """Go on after the model's end of text (for measurements)."""
    logprobs: Annotated[int, Field(ge=0, le=64)] | None = None
    """Report each token's log-probability and this many of the most likely ids; None: neither."""

    def __init__(self, **fields):
        if isinstance(fields.get("stop"), str):
            fields["stop"] = (fields["stop"],)
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else None
            given = "" if first["type"] == "extra_forbidden" else f" = {first.get('input')!r}"
            said = "is not a sampling parameter" if first["type"] == "extra_forbidden" else f": {first['msg']}"
            space = " " if not given else ""
            raise RequestError(f"{name}{given}{space}{said}", param=name) from error
