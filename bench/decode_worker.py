"""One engine in a process of its own: it is fed tokens over its standard input and answers with times, in JSON lines.

    python -m bench.decode_worker {hyla MODEL | llama FILE | transformers FOLDER} [--dtype ...] [--kv ...] ...

A request is {"pieces": [[token, ...], ...], "logits": file or null}; every piece is one forward pass that continues the
sequence, and is timed from its tokens to the greedy choice after its last one. The answer is {"seconds": [...],
"processor_seconds": [...], "tokens": [...]}, where processor time is that of all threads, waiting in a loop included.
The logits after each piece (fp32, [pieces, vocabulary]) are written as an .npy file if one is named. Nothing but the
chosen engine is imported, since the two live in different environments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np

PREFILL_PIECE = 512
"""Most tokens of one forward pass; llama.cpp's own default."""
GGML_TYPES = {"f32": 0, "f16": 1, "bf16": 30}
"""ggml's numbers; the binding has no name for the last."""


class Hyla:
    def __init__(self, args: argparse.Namespace):
        import torch

        import hyla
        from bench.hyla_names import cache_class, keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(args.threads)
        self.torch = torch
        self.model = hyla.load(args.model, dtype=getattr(torch, args.dtype)).eval().pack()
        self.cache = cache_class()(self.model.cache_specs(), num_pages=args.length // 64 + 3, num_slots=1)
        self.sequence = self.cache.open()

    def forward(self, tokens: list[int]) -> tuple[int, np.ndarray]:
        with self.torch.inference_mode():
            batch = self.cache.batch([(self.sequence, len(tokens))])
            hidden = self.model(self.torch.tensor(tokens), batch, self.cache.layers)
            logits = self.model.head_logits(hidden[batch.last_rows_N])[0]
            picked = int(logits.argmax())
            self.cache.commit(self.sequence, len(tokens))
            return picked, logits.numpy()


class Llama:
    """llama.cpp through the low-level interface of llama-cpp-python; its log goes nowhere."""

    def __init__(self, args: argparse.Namespace):
        import llama_cpp

        self.library = llama_cpp
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(args.model.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = args.length, PREFILL_PIECE, PREFILL_PIECE, 1
        params.n_threads = params.n_threads_batch = args.threads
        params.type_k = params.type_v = GGML_TYPES[args.kv]
        params.flash_attn_type = {"auto": -1, "off": 0, "on": 1}[args.flash]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp refuses {args.model} with keys and values in {args.kv}, flash {args.flash}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def forward(self, tokens: list[int]) -> tuple[int, np.ndarray]:
        array = (self.library.llama_token * len(tokens))(*tokens)
        code = self.library.llama_decode(self.context, self.library.llama_batch_get_one(array, len(tokens)))
        if code:
            raise SystemExit(f"llama_decode of {len(tokens)} tokens answered {code}")
        pointer = self.library.llama_get_logits_ith(self.context, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))
        return int(logits.argmax()), logits


class Transformers:
    """Its own cache and attention, in a dtype."""

    def __init__(self, args: argparse.Namespace):
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache

        torch.set_num_threads(args.threads)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
        self.cache = DynamicCache(config=self.model.config)  # its layers' kinds: a hybrid keeps states

    def forward(self, tokens: list[int]) -> tuple[int, np.ndarray]:
        with self.torch.inference_mode():
            found = self.model(
                self.torch.tensor([tokens]), past_key_values=self.cache, use_cache=True, logits_to_keep=1
            )
            logits = found.logits[0, -1].float()
            return int(logits.argmax()), logits.numpy()


ENGINES = {"hyla": Hyla, "llama": Llama, "transformers": Transformers}


def answer(engine: Hyla | Llama | Transformers, request: dict) -> dict:
    found, rows = {"seconds": [], "processor_seconds": [], "tokens": []}, []
    for piece in request["pieces"]:
        start, worked = time.perf_counter(), time.process_time()
        token, logits = engine.forward(piece)
        found["seconds"].append(time.perf_counter() - start)
        found["processor_seconds"].append(time.process_time() - worked)
        found["tokens"].append(token)
        if request["logits"]:
            rows.append(logits.astype(np.float32))  # a copy: the engine may write the next ones over it
    if request["logits"]:
        np.save(request["logits"], np.stack(rows))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16", help="Hyla's and transformers'")
    parser.add_argument("--kv", default="f16", choices=GGML_TYPES, help="llama.cpp's keys and values")
    parser.add_argument("--flash", default="auto", choices=["auto", "off", "on"], help="llama.cpp's flash attention")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    engine = ENGINES[args.engine](args)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
