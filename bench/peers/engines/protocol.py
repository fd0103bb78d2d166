"""What a worker asks of an engine. All of it is greedy, and every time is from tokens to the token after them."""

from __future__ import annotations

from typing import Protocol


class PeerEngine(Protocol):
    def load(self, model: str, *, threads: int, length: int, sequences: int) -> str:
        """Read a model; later calls need at most `length` tokens of context and `sequences` at once. Returns the
        engine's name and version."""
        ...

    def best(self, prompt: list[int], count: int) -> list[int]:
        """The most likely tokens after a prompt, best first."""
        ...

    def prefill(self, prompt: list[int]) -> float:
        """Seconds until a fresh prompt's first token is known."""
        ...

    def start(self, prompt: list[int]) -> float:
        """The same; the sequence stays, and `decode` goes on with it."""
        ...

    def fill(self, depth: int) -> str:
        """Come to a depth without reading a prompt of that length. Returns how. `decode` goes on there."""
        ...

    def decode(self, steps: int) -> list[float]:
        """Seconds of each of the next tokens of the running sequence."""
        ...

    def batch(self, prompts: list[list[int]], answer: int) -> float:
        """Seconds until every prompt has its answer of so many tokens, prompts included."""
        ...
