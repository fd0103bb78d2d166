"""What engines have in common that are called with tokens and give logits: rows of one length, all at one depth."""

from __future__ import annotations

import time

import numpy as np


class Stepwise:
    token: int
    """The running sequence's last one."""

    def clear(self) -> None:
        """Forget every sequence."""
        raise NotImplementedError

    def feed(self, rows: list[list[int]]) -> np.ndarray:
        """Go on with every sequence; the logits [sequences, vocabulary] after the last token of each."""
        raise NotImplementedError

    def best(self, prompt: list[int], count: int) -> list[int]:
        self.clear()
        return np.argsort(-self.feed([prompt])[0])[:count].tolist()

    def prefill(self, prompt: list[int]) -> float:
        self.clear()
        start = time.perf_counter()
        self.token = int(self.feed([prompt])[0].argmax())
        return time.perf_counter() - start

    def start(self, prompt: list[int]) -> float:
        return self.prefill(prompt)

    def decode(self, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            start = time.perf_counter()
            self.token = int(self.feed([[self.token]])[0].argmax())
            found.append(time.perf_counter() - start)
        return found

    def batch(self, prompts: list[list[int]], answer: int) -> float:
        self.clear()
        start = time.perf_counter()
        tokens = self.feed(prompts).argmax(-1)
        for _ in range(answer - 1):
            tokens = self.feed(tokens[:, None].tolist()).argmax(-1)
        return time.perf_counter() - start
