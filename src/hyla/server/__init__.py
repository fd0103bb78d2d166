"""OpenAI-compatible HTTP over an engine."""

from hyla.server.app import create_app
from hyla.server.serve import serve

__all__ = ["create_app", "serve"]
