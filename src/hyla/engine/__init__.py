"""Continuous batching over one model: requests in, tokens out."""

from hyla.lazy import exports

_HOMES = {
    "Administration": "hyla.engine.administration",
    "Choice": "hyla.engine.formats",
    "Completion": "hyla.engine.messages",
    "Ebnf": "hyla.engine.formats",
    "EmbedOrder": "hyla.engine.orders",
    "Engine": "hyla.engine.engine",
    "EngineFacts": "hyla.engine.facts",
    "EngineOptions": "hyla.engine.options",
    "EngineProcess": "hyla.engine.process",
    "EngineThread": "hyla.engine.thread",
    "JsonObject": "hyla.engine.formats",
    "JsonSchema": "hyla.engine.formats",
    "Lark": "hyla.engine.formats",
    "Launch": "hyla.engine.wire",
    "Overloaded": "hyla.engine.overload",
    "Regex": "hyla.engine.formats",
    "Request": "hyla.engine.messages",
    "SamplingParams": "hyla.engine.params",
    "ScoreOrder": "hyla.engine.orders",
    "ScoredToken": "hyla.engine.orders",
    "TokenEvent": "hyla.engine.messages",
    "TokenLogprob": "hyla.engine.messages",
    "Usage": "hyla.engine.messages",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
