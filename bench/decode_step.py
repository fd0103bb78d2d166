"""Where a decode step's time goes: products, rules, small kernels and Python; recorded and not.

    python -m bench decode_step [--models smollm2 qwen35] [--depth 16]
                                [--steps 12] [--sequences 1]

Processor time of one thread. The bare model is called, without sampling: a llama of SmolLM2-135M's sizes, and the
hybrid of bench/qwen35_folder.py, both in bf16 with random weights. First the bits of recorded steps are compared with
those of ordinary ones. A step's time is taken whole; the kernels' in runs of their own, in which every call is timed.
What is left is Python, PyTorch's operations among it.

Target: at most 1.5 ms of the hybrid's recorded step outside products and rules.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from ctypes import byref
from unittest import mock

from bench.outcome import Outcome
from bench.qwen35_folder import CONFIG
from bench.turns import take_turn

THREADS = 1
TARGET_MS = 1.5
SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "rope_theta": 1e5,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "hidden_act": "silu",
}
MODELS = {"smollm2": ("llama", SMOLLM2), "qwen35": ("qwen3_5_text", CONFIG)}
RULES = {"attention", "conv", "conv_heads", "decay", "delta"}
WARM_UP = 3
"""Steps until one is replayed, and one more."""


class Decoder:
    """A model over a cache of its own."""

    def __init__(self, model, *, is_on: bool, num_sequences: int, depth: int, steps: int):
        from hyla.caches import Cache
        from hyla.models.recording import StepForward

        self.model, self.forward = model, StepForward(model, is_on=is_on)
        pages = num_sequences * ((depth + steps) // 64 + 2)
        self.cache = Cache(model.cache_specs(), num_pages=pages, num_slots=num_sequences)
        self.sequences = [self.cache.open() for _ in range(num_sequences)]
        for sequence in self.sequences:
            self.step([sequence], [list(range(7, 7 + depth))])
        for _ in range(WARM_UP):
            self.decode()

    def step(self, sequences, rows: list[list[int]]):
        import torch

        with torch.inference_mode():
            batch = self.cache.batch([(sequence, len(row)) for sequence, row in zip(sequences, rows)])
            ids_T = torch.tensor([token for row in rows for token in row])
            head_TD = self.forward(ids_T, batch, self.cache.layers).head_TD
            logits = self.model.head_logits(head_TD)
        for sequence, row in zip(sequences, rows):
            self.cache.commit(sequence, len(row))
        return logits

    def decode(self):
        return self.step(self.sequences, [[11 + n] for n in range(len(self.sequences))])

    def milliseconds(self) -> float:
        start = time.thread_time()
        self.decode()
        return 1e3 * (time.thread_time() - start)

    def kernel_milliseconds(self) -> Counter:
        """By kernel, in one step whose calls are timed one by one."""
        from hyla.ops.native import launching, library, program

        spent: Counter = Counter()

        class Timed:
            def __getattr__(self, name: str):
                function = getattr(library(), name)

                def call(pointer) -> int:
                    start = time.thread_time_ns()
                    failed = function(pointer)
                    spent[name.removeprefix("hyla_")] += 1e-6 * (time.thread_time_ns() - start)
                    return failed

                return call

        def run(recorded: program.Program) -> None:
            for kernel, call, _ in recorded.calls:
                getattr(Timed(), f"hyla_{kernel}")(byref(call))

        with mock.patch.object(program.Program, "run", run), mock.patch.object(launching, "library", Timed):
            self.decode()
        return spent


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--depth", type=int, default=16, help="tokens before the measured ones")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each way, in turn")
    parser.add_argument("--sequences", type=int, default=1)


def build(name: str):
    """The model, packed, with random weights."""
    import torch

    from hyla.models.formats.registry import family_of
    from hyla.models.initialize import initialize
    from hyla.models.state import cast
    from hyla.models.trunk import Model

    family, published = MODELS[name]
    return cast(initialize(Model(family_of(family).config_from_hf(published)), 0), torch.bfloat16).eval().pack()


def measure(name: str, options: argparse.Namespace) -> dict:
    import torch

    model = build(name)
    sizes = {"num_sequences": options.sequences, "depth": options.depth, "steps": 3 * options.steps + 8}
    ways = {way: Decoder(model, is_on=way == "recorded", **sizes) for way in ("recorded", "in Python")}
    for _ in range(2):
        first, second = (decoder.decode() for decoder in ways.values())
        if not torch.equal(first, second):
            raise AssertionError(f"{name}: a recorded step has other bits")
    whole: dict[str, list[float]] = {way: [] for way in ways}
    parts: dict[str, list[Counter]] = {way: [] for way in ways}
    for _ in range(options.steps):
        take_turn()
        for way, decoder in ways.items():
            whole[way].append(decoder.milliseconds())
            parts[way].append(decoder.kernel_milliseconds())
    found = {}
    for way, decoder in ways.items():
        kernels = {name: statistics.median(one[name] for one in parts[way]) for name in parts[way][0]}
        total = statistics.median(whole[way])
        found[way] = {
            "step": total,
            "products": kernels.get("product", 0.0),
            "rules": sum(value for kernel, value in kernels.items() if kernel in RULES),
            "small kernels": sum(v for kernel, v in kernels.items() if kernel not in RULES and kernel != "product"),
            "Python": total - sum(kernels.values()),
        }
        found[way] = {part: round(value, 3) for part, value in found[way].items()}
        print(f"{name}, {way}: " + ", ".join(f"{part} {value:.2f} ms" for part, value in found[way].items()))
        for kind, reasons in decoder.forward.report()["in_python"].items():
            print(f"  {kind} runs in Python: {', '.join(reasons)}")
    return found


def run(options: argparse.Namespace) -> Outcome:
    results = {name: measure(name, options) for name in options.models}
    passed = None
    if "qwen35" in results:
        hybrid = results["qwen35"]["recorded"]
        passed = hybrid["small kernels"] + hybrid["Python"] <= TARGET_MS
    return Outcome(results, passed=passed)
