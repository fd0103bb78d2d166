"""Log-probabilities as the trainer gives them: the forward of `rl.policy.PolicyTrainer`, packed, without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyla.align.taps import Comparison
from hyla.models.trunk import Model
from hyla.ops.exact.logprobs import token_logprobs_and_entropy
from hyla.rl.rows import PolicyRows, rows_of
from hyla.rl.samples import Sample

PASS_ROWS = 2048
"""Rows of one forward; a longer text is one of its own."""
CHUNK_ROWS = 256
"""Rows whose logits live at once."""


def trained_logprobs(
    model: Model, samples: Sequence[Sample], temperature: float, comparison: Comparison | None = None
) -> list[torch.Tensor]:
    """fp32 [tokens] of each answer, nats. comparison: is shown every sublayer, too."""
    weights_R = torch.zeros(sum(len(sample.token_ids) for sample in samples), dtype=torch.float64)
    rows = rows_of(samples, [0.0] * len(samples), weights_R)
    found, first = [], 0
    for part in rows.micro_batches(PASS_ROWS):
        assert isinstance(part, PolicyRows)
        here = samples[first : first + len(part.lengths)]
        first += len(here)
        found += _pass(model, part.to(model.device), here, temperature, comparison)
    return found


def _pass(
    model: Model, rows: PolicyRows, samples: Sequence[Sample], temperature: float, comparison: Comparison | None
) -> list[torch.Tensor]:
    learnt_T = rows.is_learnt_T
    assert learnt_T is not None
    observer = None if comparison is None else comparison.begin(samples)
    hidden_TD = model(rows.tokens_T, rows.batch, observer=observer)
    new_R, _ = token_logprobs_and_entropy(
        hidden_TD[learnt_T],
        model.head.weight,
        rows.targets_T[learnt_T],
        chunk_rows=CHUNK_ROWS,
        temperature=temperature,
    )
    found = list(new_R.detach().cpu().split([len(sample.token_ids) for sample in samples]))
    if comparison is not None:
        comparison.end(hidden_TD, found)
    return found
