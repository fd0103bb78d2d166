"""The engines that have one model loaded, all resting but one; what did not come so far has its reason."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.models import Files, Model
from bench.peers.process import Peer, PeerError
from bench.peers.rounds import Row, Work, each, interleaved, tokens_per_second

CHECKED, CHECKED_LENGTH, BEST = 8, 40, 10
"""Prompts of the comparison of models, their tokens, and among how many of the first engine's most likely tokens
another's choice must be. Random weights have logits that lie close together: two roundings of one model choose the same
token in four of five cases; another model's choice is among ten of 32,768 by accident only."""
AGREED = 7
"""Prompts of `CHECKED` at which it must be there."""
WARM_UP = 2
"""First tokens of a round that are not counted: the engine before left the caches to its own weights."""
VOCABULARY = 32768
"""Ids that every model here has."""


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=count)


@dataclass
class Run:
    """What all stages share. longest: tokens of prompts and depths that are worked on, the deep part apart. versions:
    of every engine that loaded. memory: its worker, if it came up."""

    files: Files
    logs: Path
    threads: int
    rounds: int
    steps: int
    patience: float
    longest: int = 4096
    versions: dict[str, str] = field(default_factory=dict)
    memory: Peer | None = None

    def within(self, lengths: tuple[int, ...]) -> list[int]:
        """Those that are short enough, or the shortest."""
        return [length for length in lengths if length <= max(self.longest, min(lengths))]

    def worker(self, engine: str, python: str) -> Peer:
        """Not loaded yet. Other environments do not see this one's PYTHONPATH."""
        own = {"OMP_NUM_THREADS": str(self.threads)} | ({} if python == sys.executable else {"PYTHONPATH": ""})
        command = [python, "-m", "bench.peers.worker", engine]
        number = len(list(self.logs.iterdir()))
        return Peer(command, self.logs / f"{number}-{engine}.log", environment=own, patience=self.patience)


@dataclass
class Stage:
    run: Run
    peers: dict[str, Peer] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def open(self, name: str, engine: str, model: Model, length: int, sequences: int) -> None:
        """Start an engine and load a model; it rests when it has it."""
        peer = None
        try:
            python = sys.executable if engine == "hyla" else self.run.files.python(engine)
            source = self.run.files.of(model, engine)
            peer = self.run.worker(engine, python)
            sizes = {"threads": self.run.threads, "length": length, "sequences": sequences}
            self.run.versions[name] = peer.ask("load", model=source, **sizes)
        except PeerError as error:
            self.reasons[name] = str(error)
            if peer is not None:
                peer.close()
            return
        peer.rest()
        self.peers[name] = peer

    def check(self, first: str) -> None:
        """Whether the others compute the first one's model; a note where they do not, and how often they choose
        alike."""
        prompts = [tokens(CHECKED_LENGTH, 100 + number) for number in range(CHECKED)]
        found, reasons = each(self.peers, lambda peer: [peer.ask("best", prompt=one, count=BEST) for one in prompts])
        self._without(reasons)
        if first not in found:
            return
        for name, own in found.items():
            near = sum(mine[0] in ours for mine, ours in zip(own, found[first]))
            if near < AGREED:
                words = f"its choice is among Hyla's {BEST} best after {near} of {CHECKED} prompts only"
                self.notes[name] = f"may compute another model: {words}"

    def _without(self, reasons: dict[str, str]) -> None:
        """Who failed here does not come to any later row."""
        self.reasons |= reasons
        for name in reasons:
            self.peers.pop(name).close()

    def row(self, title: str, work: Work, *, prepare: Callable[[Peer], object] | None = None, **options) -> Row:
        """Rounds of everyone that is still here and that `prepare` brings there."""
        peers, failed = dict(self.peers), {}
        if prepare is not None:
            prepared, failed = each(peers, prepare)
            peers = {name: peer for name, peer in peers.items() if name in prepared}
        row = interleaved(title, peers, work, **{"rounds": self.run.rounds, **options})
        row.reasons = {**self.reasons, **failed, **row.reasons}
        row.notes |= self.notes
        return row

    def one_stream(self, title: str, prepare: Callable[[Peer], object], nbytes: float, **options) -> Row:
        """Tokens of one sequence, one after the other, and the memory's bandwidth beside them."""
        steps = self.run.steps + WARM_UP
        work: Work = lambda peer: tokens_per_second(peer.ask("decode", steps=steps), WARM_UP)  # noqa: E731
        row = self.row(title, work, prepare=prepare, memory=self.run.memory, **options)
        row.token_bytes = nbytes
        return row


@contextlib.contextmanager
def stage(run: Run, model: Model, engines: list[str], *, length: int, sequences: int) -> Iterator[Stage]:
    """Every engine with the model, checked against Hyla's; all processes end with it."""
    own = Stage(run)
    try:
        for engine in engines:
            own.open(engine, engine, model, length, sequences)
            state = own.reasons.get(engine) or run.versions[engine]
            print(f"{model.name}: {engine}: {state}", flush=True)
        if "hyla" in own.peers:
            own.check("hyla")
        yield own
    finally:
        for peer in own.peers.values():
            peer.close()


def open_memory(run: Run) -> None:
    """The worker that reads memory between the engines; without it no share of the bandwidth is said."""
    peer = run.worker("memory", sys.executable)
    run.versions["memory"] = peer.ask("load", threads=run.threads)
    peer.rest()
    run.memory = peer
