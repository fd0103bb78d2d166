"""Drafts: cheap guesses of the next tokens, that one call of the model verifies together."""

from hyla.engine.drafts.adaptive import DraftLength
from hyla.engine.drafts.lookup import LookupDrafter
from hyla.engine.drafts.model import ModelDrafter
from hyla.engine.drafts.mtp import MTPDrafter
from hyla.engine.drafts.protocol import Drafter, Part
from hyla.engine.sampling.acceptance import Draft

__all__ = ["Draft", "DraftLength", "Drafter", "LookupDrafter", "MTPDrafter", "ModelDrafter", "Part"]
