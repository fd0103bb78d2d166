"""The card of a model that is about to be used. No PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path

from hyla.checkpoints.card import ModelCard, SamplingAdvice, derived_card, read_card
from hyla.cost import count_parameters
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config import ModelConfig

logger = logging.getLogger("hyla.server")

GENERATION_FILE = "generation_config.json"


def served_card(folder: str | Path, config: ModelConfig, **known) -> ModelCard:
    """The folder's own card, or what its config says and is known besides (fields of the card).

    A broken card is said in the log and is no reason not to serve.
    """
    try:
        found = read_card(folder)
    except CheckpointError as error:
        logger.warning("%s; serving without it", error)
        found = None
    if found is not None:
        return found
    counts = count_parameters(config)
    known = {"sampling": published_advice(Path(folder)), **known}
    return derived_card(config, parameters=counts.total, active=counts.active, **known)


def published_advice(folder: Path) -> SamplingAdvice:
    """What generation_config.json says about sampling; a value that means "off" (top_k 0) or is no number: nothing."""
    file = folder / GENERATION_FILE
    try:
        published = read_json(file) if file.is_file() else {}
    except CheckpointError as error:
        logger.warning("%s; serving without its advice on sampling", error)
        return SamplingAdvice()
    advice = {}
    for name in SamplingAdvice.model_fields:
        try:
            SamplingAdvice(**{name: published.get(name)})
        except ConfigError:
            continue
        advice[name] = published.get(name)
    return SamplingAdvice(**advice)
