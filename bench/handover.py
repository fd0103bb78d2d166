"""What handing weights over to the engine of rollouts costs beside an update: whole models and LoRA.

    python -m bench handover [--models kda-5m gated_delta-50m] [--lora 0 16] [--dtype bf16] [--folder FOLDER]

The pieces of a round of `hyla rl`, by its own parts, with random answers in the place of sampled ones: an update of
`--answers` answers, the hand-over of the weights that changed, and the fingerprint of the engine's new weights, which
an engine needs that keeps prefixes on a disk (SHA-256 over all weights). Prompts of 64 tokens, answers of 64.

Target: hand-over and fingerprint at most 5% of an update.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.outcome import Outcome
from bench.training.models import MIXERS, SIZES, VOCABULARY, write_model

THREADS = 1
MOST = 0.05
PROMPT = ANSWER = 64
PARTS = ("update", "handover", "fingerprint")


def add_options(parser: argparse.ArgumentParser) -> None:
    models = [f"{mixer}-{size}" for size in SIZES for mixer in MIXERS]
    parser.add_argument("--models", nargs="+", default=["kda-5m", "gated_delta-50m"], choices=models)
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0: the whole model")
    parser.add_argument("--dtype", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--answers", type=int, default=64, help="of one update")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the models are kept; default: a temporary folder")


def run(options: argparse.Namespace) -> Outcome:
    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            mixer, _, size = name.rpartition("-")
            place = write_model(mixer, size, options.folder or Path(scratch))
            for rank in options.lora:
                title = f"{name}, {f'LoRA of rank {rank}' if rank else 'whole'}"
                rows[title] = row = measured(place, rank, options, Path(scratch) / title)
                shares = ", ".join(f"{part} {row[part]:.4f} s" for part in PARTS)
                print(f"{title:36} {shares}: {row['share']:.2%} of an update", flush=True)
    return Outcome(rows, passed=all(row["share"] <= MOST for row in rows.values()))


def measured(place: Path, rank: int, options: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Median seconds of each part, after a round that does not count."""
    from hyla.engine.fingerprint import fingerprint

    scratch.mkdir()
    trainer, hand_over = _parts(place, rank, options, scratch)
    engine = hand_over.engine
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    before = fingerprint(engine.model, engine.cache)
    for number in range(options.rounds + 1):
        trainer.source.put(number, [_rows(number, options.answers)])
        seconds = {
            "update": _timed(lambda step=number: trainer.update(step)),
            "handover": _timed(hand_over),
            "fingerprint": _timed(lambda: fingerprint(engine.model, engine.cache)),
        }
        after = fingerprint(engine.model, engine.cache)
        assert after != before, "the hand-over changed no weight"
        before = after
        for part, one in seconds.items():
            found[part] += [one] if number else []
    row = {part: statistics.median(times) for part, times in found.items()}
    pairs = zip(found["handover"], found["fingerprint"], found["update"])
    return row | {"share": statistics.median((one + other) / whole for one, other, whole in pairs)}


def _timed(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _parts(place: Path, rank: int, options: argparse.Namespace, scratch: Path):
    """A trainer and its hand-over to an engine, as `hyla rl` makes them."""
    import torch

    from hyla.adapters import LoraConfig
    from hyla.checkpoints import load_model
    from hyla.engine import Engine
    from hyla.rl.config import PolicyConfig
    from hyla.rl.handover import HandOver
    from hyla.rl.policy import PolicyTrainer
    from hyla.train.config import TrainConfig

    model = load_model(place, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_()
    config = TrainConfig(
        steps=10**6, optimizer="adamw", learning_rate=1e-3, warmup_fraction=0.0, decay_fraction=0.0, dtype=options.dtype
    )
    lora = LoraConfig(rank=rank) if rank else None
    trainer = PolicyTrainer(model, config, scratch, PolicyConfig(), temperature=1.0, max_tokens=ANSWER, lora=lora)
    kept = load_model(place, dtype=trainer.model.dtype)
    hand_over = HandOver(trainer.model, Engine(kept, memory=64 << 20), trainer.learnt_names)
    if trainer.adapters is not None:
        hand_over.share(trainer.adapters)
    return trainer, hand_over


def _rows(number: int, count: int):
    """An update of random answers, half of them good."""
    from hyla.rl.objective import token_weights
    from hyla.rl.rows import rows_of
    from hyla.rl.samples import Sample

    draw = random.Random(number)
    lists = [[draw.randrange(2, VOCABULARY) for _ in range(PROMPT + ANSWER)] for _ in range(count)]
    samples = [
        Sample(0, place, 0, tuple(ids[:PROMPT]), tuple(ids[PROMPT:]), (-8.3,) * ANSWER, "", "length")
        for place, ids in enumerate(lists)
    ]
    counts = {"num_samples": count, "num_tokens": count * ANSWER, "max_tokens": ANSWER}
    weights_R = token_weights([ANSWER] * count, "token", **counts)
    return rows_of(samples, [(-1.0) ** place for place in range(count)], weights_R)
