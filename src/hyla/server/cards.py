"""The card of a model that is about to be served. No PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path

from hyla.checkpoints.card import ModelCard, derived_card, read_card
from hyla.cost import count_parameters
from hyla.errors import CheckpointError
from hyla.models.config import ModelConfig

logger = logging.getLogger("hyla.server")


def served_card(folder: str | Path, config: ModelConfig, licence: str | None = None) -> ModelCard:
    """The folder's own card, or what its config says. A broken card is said in the log and is no reason not to serve."""
    try:
        found = read_card(folder)
    except CheckpointError as error:
        logger.warning("%s; serving without it", error)
        found = None
    if found is not None:
        return found
    counts = count_parameters(config)
    return derived_card(config, parameters=counts.total, active=counts.active, licence=licence)
