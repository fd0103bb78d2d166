"""OpenAI's and Anthropic's HTTP APIs over engines."""

from hyla.server.app import create_app, single_app
from hyla.server.config import ServeConfig, ServedModelConfig
from hyla.server.guard.keys import KeyRing
from hyla.server.guard.limits import Limits
from hyla.server.serve import serve
from hyla.server.served import ServedModel, serve_model, served_model

__all__ = [
    "KeyRing",
    "Limits",
    "ServeConfig",
    "ServedModel",
    "ServedModelConfig",
    "create_app",
    "serve",
    "serve_model",
    "served_model",
    "single_app",
]
