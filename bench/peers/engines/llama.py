"""llama.cpp through the low-level interface of llama-cpp-python, on a GGUF file; its log goes nowhere."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from bench.peers.engines.stepwise import Stepwise

PIECE, MICRO_PIECE = 2048, 512
"""Tokens of one call, and of what is computed at a time: llama.cpp's own defaults."""


class Llama(Stepwise):
    def load(self, model: str, *, threads: int, length: int, sequences: int) -> str:
        import llama_cpp

        self.library, self.threads = llama_cpp, threads
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise ValueError(f"llama.cpp refuses {Path(model).name}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self._open(length, sequences)
        return f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"

    def _open(self, length: int, sequences: int) -> None:
        """Keys and values in f16, flash attention as it chooses: the defaults."""
        params = self.library.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = -(-length // 256) * 256, PIECE, MICRO_PIECE
        params.n_seq_max, params.kv_unified = sequences, True
        params.n_threads = params.n_threads_batch = self.threads
        self.context = self.library.llama_init_from_model(self.model, params)
        if not self.context:
            raise ValueError("llama.cpp refuses the context")
        self.rows = self.library.llama_batch_init(PIECE, 0, 1)

    def clear(self) -> None:
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self.depth = 0

    def feed(self, rows: list[list[int]]) -> np.ndarray:
        length = len(rows[0])
        listed = [(token, n, number) for number, row in enumerate(rows) for n, token in enumerate(row)]
        found = []
        for start in range(0, len(listed), PIECE):
            piece = listed[start : start + PIECE]
            for index, (token, n, number) in enumerate(piece):
                self.rows.token[index], self.rows.pos[index] = token, self.depth + n
                self.rows.n_seq_id[index], self.rows.seq_id[index][0] = 1, number
                self.rows.logits[index] = n == length - 1
            self.rows.n_tokens = len(piece)
            code = self.library.llama_decode(self.context, self.rows)
            if code:
                raise ValueError(f"llama_decode of {len(piece)} tokens answered {code}")
            found += [self._logits(index) for index, (_, n, _) in enumerate(piece) if n == length - 1]
        self.depth += length
        return np.stack(found)

    def _logits(self, index: int) -> np.ndarray:
        pointer = self.library.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,)).copy()  # the next piece writes over it

    def fill(self, depth: int) -> str:
        """A first piece is read; copies of what it left make the rest. Every cell of keys and values is the running
        sequence's, so a token attends to all of them, though their positions repeat."""
        memory = self.library.llama_get_memory(self.context)
        length, spare = min(PIECE, depth), 1
        self.prefill([(7 * n * n + 13 * n) % self.vocabulary for n in range(length)])
        size = self.library.llama_state_seq_get_size(self.context, 0)
        state = (ctypes.c_uint8 * size)()
        self.library.llama_state_seq_get_data(self.context, state, size, 0)
        for _ in range(depth // length - 1):
            if not self.library.llama_state_seq_set_data(self.context, state, size, spare):
                raise ValueError("llama.cpp refuses a copy of its state")
            self.library.llama_memory_seq_cp(memory, spare, 0, -1, -1)
            self.library.llama_memory_seq_rm(memory, spare, -1, -1)
        return f"copies of the state after {length:,} tokens"


ENGINE = Llama
