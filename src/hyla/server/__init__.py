"""OpenAI's and Anthropic's HTTP APIs over engines."""

from hyla.lazy import exports

_HOMES = {
    "KeyRing": "hyla.server.guard.keys",
    "Limits": "hyla.server.guard.limits",
    "ServeConfig": "hyla.server.config",
    "ServedModel": "hyla.server.served",
    "ServedModelConfig": "hyla.server.config",
    "create_app": "hyla.server.app",
    "serve": "hyla.server.listening",
    "serve_model": "hyla.server.served",
    "served_model": "hyla.server.served",
    "single_app": "hyla.server.app",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
