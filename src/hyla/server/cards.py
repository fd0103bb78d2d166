"""The card of a model that is about to be used. No PyTorch."""

from __future__ import annotations

import logging
from os.path import lexists
from pathlib import Path

from hyla.checkpoints.card import ModelCard, SamplingAdvice, derived_card, read_card
from hyla.checkpoints.names import KnownModel
from hyla.checkpoints.protocol import Checkpoint
from hyla.cost import count_parameters
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json

logger = logging.getLogger("hyla.server")

GENERATION_FILE = "generation_config.json"


def served_card(checkpoint: Checkpoint, known: KnownModel | None = None) -> ModelCard:
    """The card that lies in the folder; else what the checkpoint says, and what is known of a model with a name here.

    A broken card is said in the log and is no reason not to serve. Raises CheckpointError or ConfigError where the
    config cannot be read.
    """
    try:
        found = read_card(checkpoint.path)
    except CheckpointError as error:
        logger.warning("%s; serving without it", error)
        found = None
    if found is not None:
        return found
    config = checkpoint.config().config
    counts = count_parameters(config)
    licence = known.licence if known is not None else checkpoint.licence
    sampling = known.sampling if known is not None else published_advice(checkpoint.path)
    return derived_card(config, parameters=counts.total, active=counts.active, licence=licence, sampling=sampling)


def published_advice(path: Path) -> SamplingAdvice:
    """What generation_config.json says about sampling; a value that means "off" (top_k 0) or is no number: nothing."""
    file = path / GENERATION_FILE
    try:
        published = read_json(file) if lexists(file) else {}
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
