"""transformers, eager, with its own cache."""

from __future__ import annotations

import numpy as np

from bench.peers.engines.stepwise import Stepwise


class Transformers(Stepwise):
    def load(self, model: str, *, threads: int, length: int, sequences: int) -> str:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch, self.kind = torch, transformers.DynamicCache
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        return f"transformers {transformers.__version__}"

    def clear(self) -> None:
        self.cache = self.kind(config=self.model.config)

    def feed(self, rows: list[list[int]]) -> np.ndarray:
        with self.torch.inference_mode():
            tokens = self.torch.tensor(rows)
            found = self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            return found.logits[:, -1].float().numpy()


ENGINE = Transformers
