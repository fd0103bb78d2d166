"""One engine that trains a folder's model, in a process of its own: a line of JSON in, a line out.

    python -m bench.training.worker hyla|transformers FOLDER --dtype fp32|bf16 --length L --sequences N --threads T

{"steps": n}: n optimizer steps; answers with their seconds, losses, and the peak of memory so far.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

RATE = 1e-3
SEED = 7


def peak_bytes() -> int:
    """Most resident memory of this process so far (Linux)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def documents(args: argparse.Namespace, step: int):
    """int64 [sequences, length + 1], the same in every engine."""
    import torch

    generator = torch.Generator().manual_seed(SEED + step)
    return torch.randint(2, args.vocabulary, (args.sequences, args.length + 1), generator=generator)


class Hyla:
    """The trainer's own step: packed documents, AdamW; the process is set up as `hyla train` sets its own up."""

    def __init__(self, args: argparse.Namespace):
        from hyla.engine.waiting_threads import load_torch
        from hyla.ops.host_memory import keep_freed_memory

        load_torch()
        keep_freed_memory()
        import torch

        from hyla.checkpoints import load_model
        from hyla.data.batch_sizes import BatchSizes
        from hyla.data.packing import PackedRows
        from hyla.train.config import TrainConfig
        from hyla.train.loop import Trainer

        class Source:
            sizes = BatchSizes(args.length * args.sequences)

            def step(self, step: int) -> PackedRows:
                ids = documents(args, step)
                lengths = (args.length,) * args.sequences
                return PackedRows(ids[:, :-1].flatten(), ids[:, 1:].flatten(), lengths)

        torch.set_num_threads(args.threads)
        model = load_model(args.folder, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.requires_grad_()
        config = TrainConfig(
            steps=10**6, optimizer="adamw", learning_rate=RATE, warmup_fraction=0.0, decay_fraction=0.0,
            weight_decay=0.0, clip_norm=1.0, dtype=args.dtype, batch_tokens=args.length * args.sequences,
            max_document_tokens=args.length,
        )  # fmt: skip
        self.trainer = Trainer(model, Source(), config, Path("/nonexistent"))

    def step(self, step: int) -> float:
        return self.trainer.update(step).losses["loss"]


class Transformers:
    """Its model, eager; sequences side by side, since none of its hybrids packs on a CPU. AdamW on fp32 weights, in
    bf16 under autocast, as its users train."""

    def __init__(self, args: argparse.Namespace):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(args.threads)
        self.torch, self.args = torch, args
        self.model = AutoModelForCausalLM.from_pretrained(
            args.folder, dtype=torch.float32, attn_implementation="eager"
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def step(self, step: int) -> float:
        torch, ids = self.torch, documents(self.args, step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.args.dtype == "bf16"):
            logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


ENGINES = {"hyla": Hyla, "transformers": Transformers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=4096)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    engine, step = ENGINES[args.engine](args), 0
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(json.loads(line)["steps"]):
            start = time.perf_counter()
            losses.append(engine.step(step))
            seconds.append(time.perf_counter() - start)
            step += 1
        print(json.dumps({"seconds": seconds, "losses": losses, "peak_bytes": peak_bytes()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
