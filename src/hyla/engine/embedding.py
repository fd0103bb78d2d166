"""Whole texts through the model once: their pooled hidden states.

Nothing is sampled and nothing cached. By the one arithmetic the hidden states are those that a generation would see. A
command covers one text, so that running answers wait for no more than that between two of their steps.
"""

from __future__ import annotations

import torch

from hyla.engine.requests.embed import EmbedCommand
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ops.devices import says_what_to_lower
from hyla.ops.numerics import Numerics, use


@torch.inference_mode()
def embed(model: Model, command: EmbedCommand, numerics: Numerics = "exact") -> tuple[float, ...]:
    """The vector of a text whose ids are the model's."""
    batch = Batch.packed([len(command.token_ids)], device=model.device)
    text = says_what_to_lower(model.device, f"a text of {len(command.token_ids)} tokens", "shorten it, or lower memory")
    with text, use(numerics):
        hidden_TD = model(torch.tensor(command.token_ids, device=model.device), batch).double()
    pooled_D = hidden_TD.mean(0) if command.pooling == "mean" else hidden_TD[-1]
    if command.is_normalised:
        pooled_D = pooled_D / pooled_D.norm().clamp_min(1e-300)
    return tuple(pooled_D.float().tolist())
