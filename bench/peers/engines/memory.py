"""No engine: what the memory gives to a plain sum, taken between the engines' rounds."""

from __future__ import annotations

import time


class Memory:
    def load(self, threads: int) -> str:
        import torch

        torch.set_num_threads(threads)
        self.data = torch.ones(1 << 28)
        return f"a plain sum of 1 GiB by {threads} threads"

    def read(self, passes: int) -> float:
        """Bytes a second, the best of some passes."""
        best = 0.0
        for _ in range(passes):
            start = time.perf_counter()
            self.data.sum()
            best = max(best, self.data.nbytes / (time.perf_counter() - start))
        return best


ENGINE = Memory
