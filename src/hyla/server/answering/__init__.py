"""From an engine's events to a response, whole or streamed."""
