"""Continuous batching over one model: requests in, tokens out."""

from hyla.engine.embedding import EmbedOrder, ScoredToken, ScoreOrder, submit_order
from hyla.engine.engine import Engine
from hyla.engine.messages import Completion, Request, TokenEvent, TokenLogprob, Usage
from hyla.engine.options import EngineOptions
from hyla.engine.params import SamplingParams
from hyla.engine.thread import EngineThread, Overloaded

__all__ = [
    "Completion",
    "EmbedOrder",
    "Engine",
    "EngineOptions",
    "EngineThread",
    "Overloaded",
    "Request",
    "SamplingParams",
    "ScoreOrder",
    "ScoredToken",
    "TokenEvent",
    "TokenLogprob",
    "Usage",
    "submit_order",
]
