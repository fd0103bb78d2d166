"""From the bytes of an HTTP request to the engine's request, and every refusal on the way."""
