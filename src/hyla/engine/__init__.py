"""Continuous batching over one model: requests in, tokens out."""

from hyla.engine.administration import Administration
from hyla.engine.embedding import EmbedOrder, ScoredToken, ScoreOrder, submit_order
from hyla.engine.engine import Engine
from hyla.engine.formats import Choice, Ebnf, JsonObject, JsonSchema, Lark, Regex
from hyla.engine.limits import Overloaded
from hyla.engine.messages import Completion, Request, TokenEvent, TokenLogprob, Usage
from hyla.engine.options import EngineOptions
from hyla.engine.params import SamplingParams
from hyla.engine.thread import EngineThread

__all__ = [
    "Administration",
    "Choice",
    "Completion",
    "Ebnf",
    "EmbedOrder",
    "Engine",
    "EngineOptions",
    "EngineThread",
    "JsonObject",
    "JsonSchema",
    "Lark",
    "Overloaded",
    "Regex",
    "Request",
    "SamplingParams",
    "ScoreOrder",
    "ScoredToken",
    "TokenEvent",
    "TokenLogprob",
    "Usage",
    "submit_order",
]
