"""The harness's generation_kwargs as sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyla.checkpoints import Tokenizer
from hyla.engine import SamplingParams
from hyla.errors import RequestError

DEFAULT_MAX_TOKENS = 256
"""Where a task says nothing, as with the harness's other models."""
DEFAULT_SEED = 1234
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the most tokens to write; the first that is given counts, as in the harness."""
TAKEN = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
"""With our own names and meanings."""


def sampling_params(
    options: Mapping[str, Any], tokenizer: Tokenizer, default_max_tokens: int = DEFAULT_MAX_TOKENS
) -> SamplingParams:
    """As the harness means them: greedy unless `do_sample` or a temperature says otherwise, to the first text of
    `until`. A special token's text in `until` ends an answer as that token.

    Raises RequestError for an option that nothing here knows: none is silently dropped.
    """
    left = dict(options)
    limits = [int(left.pop(name)) for name in LIMITS if left.get(name) is not None]
    until = left.pop("until", None)
    texts = [until] if isinstance(until, str) else list(until or ())
    texts = list(dict.fromkeys(text for text in texts if text))
    special = {text: tokenizer.token_id(text) for text in texts if text in tokenizer.special_texts}
    taken = {name: left.pop(name) for name in TAKEN if left.get(name) is not None}
    if "temperature" not in taken:
        taken["temperature"] = 0.0
    if left.pop("do_sample", None) is False:
        taken["temperature"] = 0.0
    if left.pop("num_beams", 1) not in (1, None):
        raise RequestError("num_beams: there is no beam search here; set it to 1", "num_beams")
    for name in (*LIMITS, *TAKEN):
        left.pop(name, None)
    if left:
        known = ", ".join(("until", *LIMITS, "do_sample", *TAKEN))
        raise RequestError(f"generation_kwargs has {', '.join(sorted(left))}; there are {known}", min(left))
    return SamplingParams(
        max_tokens=limits[0] if limits else default_max_tokens,
        stop=tuple(text for text in texts if text not in special),
        stop_token_ids=tuple(token for token in special.values() if token is not None),
        **{"seed": DEFAULT_SEED, **taken},
    )
