"""Continuous batching over one model: requests in, tokens out."""

from hyla.lazy import exports

_HOMES = {
    "Administration": "hyla.engine.administration",
    "Choice": "hyla.engine.requests.formats",
    "Completion": "hyla.engine.requests.messages",
    "Ebnf": "hyla.engine.requests.formats",
    "EmbedCommand": "hyla.engine.requests.embed",
    "Engine": "hyla.engine.engine",
    "EngineFacts": "hyla.engine.requests.facts",
    "EngineOptions": "hyla.engine.requests.options",
    "EngineProcess": "hyla.engine.hosting.process",
    "EngineThread": "hyla.engine.hosting.thread",
    "JsonObject": "hyla.engine.requests.formats",
    "JsonSchema": "hyla.engine.requests.formats",
    "Lark": "hyla.engine.requests.formats",
    "Launch": "hyla.engine.hosting.wire",
    "Overloaded": "hyla.engine.requests.overload",
    "Regex": "hyla.engine.requests.formats",
    "Request": "hyla.engine.requests.messages",
    "RouterChoices": "hyla.engine.requests.router_choices",
    "SamplingParams": "hyla.engine.requests.params",
    "TokenEvent": "hyla.engine.requests.messages",
    "TokenLogprob": "hyla.engine.requests.messages",
    "Usage": "hyla.engine.requests.messages",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
