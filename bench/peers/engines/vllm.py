"""vLLM's CPU build through `LLM`, its engine in the same process; prompts are token ids."""

from __future__ import annotations

import os
import time
from itertools import count

CACHE_GIB = 3


class Vllm:
    def load(self, model: str, *, threads: int, length: int, sequences: int) -> str:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        import vllm

        self.params, self.names, self.running = vllm.SamplingParams, count(), None
        self.llm = vllm.LLM(
            model,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=length,
            max_num_seqs=sequences,
            enable_prefix_caching=False,
        )
        return f"vLLM {vllm.__version__}"

    def _greedy(self, answer: int, **fields):
        return self.params(max_tokens=answer, temperature=0, ignore_eos=True, detokenize=False, **fields)

    def _generate(self, prompts: list[list[int]], params) -> list:
        return self.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)

    def best(self, prompt: list[int], count: int) -> list[int]:
        (done,) = self._generate([prompt], self._greedy(1, logprobs=count))
        found = done.outputs[0].logprobs[0]
        return sorted(found, key=lambda token: -found[token].logprob)[:count]

    def prefill(self, prompt: list[int]) -> float:
        start = time.perf_counter()
        self._generate([prompt], self._greedy(1))
        return time.perf_counter() - start

    def start(self, prompt: list[int]) -> float:
        self._drop()
        engine, name, start = self.llm.llm_engine, f"stream-{next(self.names)}", time.perf_counter()
        room = self.llm.model_config.max_model_len - len(prompt) - 1
        engine.add_request(name, {"prompt_token_ids": prompt}, self._greedy(room))
        while not any(one.outputs and one.outputs[0].token_ids for one in engine.step()):
            pass
        self.running = name
        return time.perf_counter() - start

    def decode(self, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            start = time.perf_counter()
            outputs = self.llm.llm_engine.step()
            found.append(time.perf_counter() - start)
            if not outputs:
                raise ValueError("the running sequence gave no token")
        return found

    def batch(self, prompts: list[list[int]], answer: int) -> float:
        self._drop()
        start = time.perf_counter()
        self._generate(prompts, self._greedy(answer))
        return time.perf_counter() - start

    def _drop(self) -> None:
        if self.running:
            self.llm.llm_engine.abort_request([self.running])
            while self.llm.llm_engine.has_unfinished_requests():
                self.llm.llm_engine.step()
        self.running = None


ENGINE = Vllm
