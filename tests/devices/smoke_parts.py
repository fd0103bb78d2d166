"""What `smoke.py` checks on a device, part by part. A part yields a line for each thing it has checked."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import oracle
import torch
from matrix.cells import Cell, pairwise

from hyla.ops import backends, devices
from hyla.ops.exact import portable, row_checks, rows

LINEAR_SHAPES = ((1024, 3584), (2048, 8192), (151_936, 1024))
"""[outputs, inputs] of real models: a wide MLP, a long sum, a vocabulary (checked by one of its blocks)."""
BMM_SHAPES = ((64, 64), (128, 128), (128, 64), (64, 128), (256, 64), (576, 64), (64, 512))
"""(inner, columns) of chunks, pages of keys, and latents."""
ROW_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048, 8192)
LONG_RUNS = ("kimi_linear", "qwen3_next", "deepseek_v32", "nemotron_h", "minimax", "mimo_v2")
"""Families that are trained twice."""
DTYPES = (torch.bfloat16, torch.float32)


@dataclass
class Smoke:
    """What all parts share."""

    device: torch.device
    is_short: bool
    """Few of everything: to try the parts on the CPU."""
    end: float
    """On the monotonic clock: when the whole must be over."""
    folder: Path
    until: float = 0.0
    """When the present part must be over."""
    skipped: list[str] = field(default_factory=list)

    def has_time(self, name: str) -> bool:
        """Whether the part may go on; if not, what it leaves out is noted by its name."""
        if time.monotonic() < self.until:
            return True
        self.skipped.append(name)
        return False


@dataclass(frozen=True)
class Line:
    """One thing that was checked. is_good: None for what is only told."""

    name: str
    text: str
    is_good: bool | None = True


Lines = Iterator[Line]


def card(smoke: Smoke) -> Lines:
    """Versions, and what bits depend on."""
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": smoke.device,
        "arithmetic": backends.on(smoke.device),
        **devices.facts(smoke.device),
    }
    for name in ("triton", "numpy"):
        try:
            facts[name] = __import__(name).__version__
        except ImportError:
            facts[name] = "none"
    free = devices.free_bytes(smoke.device)
    if free is not None:
        facts["free"] = f"{free / 2**30:.1f} GiB"
    for name, value in facts.items():
        yield Line(name, str(value), None)
    yield Line("portable", "products and sums are the portable ones", backends.is_portable(smoke.device))


def parity(smoke: Smoke) -> Lines:
    """Every family's logits against float64."""
    kept = oracle.load()
    for family in _families(smoke):
        for dtype in oracle.DTYPES:
            if smoke.has_time(f"{family} {dtype}"):
                found = oracle.check_logits(family, dtype, smoke.device, kept)
                yield _verdict(f"{family} {dtype}", found)


def training(smoke: Smoke) -> Lines:
    """One step of every family: loss and gradients against float64."""
    kept = oracle.load()
    for family in _families(smoke):
        if smoke.has_time(family):
            yield _verdict(family, oracle.check_gradients(family, smoke.device, kept))


def _families(smoke: Smoke) -> tuple[str, ...]:
    return ("kimi_linear", "qwen3_next", "deepseek_v32") if smoke.is_short else oracle.FAMILIES


def _verdict(name: str, found: oracle.Verdict) -> Line:
    return Line(name, f"{found.error:.1e} (at most {found.tolerance:.0e})", found.is_good)


def repeated(smoke: Smoke) -> Lines:
    """Two training runs of five steps, and one that is stopped and resumed: equal weights and losses."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for family in LONG_RUNS[: 1 if smoke.is_short else None]:
            if not smoke.has_time(family):
                continue
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                first, second, stopped = (_trained(smoke, family, name) for name in ("first", "second", "stopped"))
            yield Line(family, "two runs have equal bits", first == second)
            yield Line(family, "a stopped and resumed run has them, too", first == stopped)
            varying = sorted(
                {str(one.message).split(" does not have")[0] for one in said if "determin" in str(one.message)}
            )
            yield Line(family, f"operations without a deterministic form: {', '.join(varying) or 'none'}", not varying)
    finally:
        torch.use_deterministic_algorithms(False)


def _trained(smoke: Smoke, family: str, name: str) -> list[bytes]:
    """The losses, and the weights after five steps."""
    from hyla.data.packing import TokenStore
    from hyla.train.config import TrainConfig
    from hyla.train.loop import Trainer
    from hyla.train.sources import packer_of

    config = TrainConfig(steps=5, seed=3, batch_tokens=96, max_document_tokens=70, checkpoint_every=2, loss_rows=40)
    folder = smoke.folder / f"{family}-{name}"
    folder.mkdir()

    def trainer() -> Trainer:
        model = oracle.tiny_model(family, torch.float32)
        generator = torch.Generator().manual_seed(5)
        texts = [torch.randint(model.config.vocab_size, (n,), generator=generator).tolist() for n in (90, 40, 70, 33)]
        return Trainer(model.to(smoke.device), packer_of(TokenStore.from_lists(texts), config), config, folder)

    run = trainer()
    if name == "stopped":
        while run.finished_steps < 2:
            run.update(run.finished_steps)
            run.finished_steps += 1
        run.save()
        run = trainer()
        run.resume()
    run.run()
    weights = [parameter.detach().cpu() for parameter in run.model.parameters()]
    return [bytes(weight.view(torch.uint8).numpy().tobytes()) for weight in weights]


class Served:
    """`hyla serve` and `hyla generate` as processes that start while other parts run."""

    PROMPT = "def read(path):\n    return"
    TOKENS = 24

    def __init__(self, smoke: Smoke):
        from tiny_model import save_tiny_folder

        self.folder = save_tiny_folder(smoke.folder / "tiny")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        device = ("--device", str(smoke.device))
        sampling = ("--max-tokens", str(self.TOKENS), "--temperature", "0.8", "--top-p", "1.0", "--seed", "3")
        self.server = Started(smoke, "serve", str(self.folder), "--port", str(self.port), *device)
        self.generate = Started(smoke, "generate", str(self.folder), self.PROMPT, *sampling, *device)

    def close(self) -> None:
        self.server.stop()
        self.generate.stop()

    def check(self, smoke: Smoke) -> Lines:
        """An answer over HTTP is the one that `generate` prints; /health says where it came from."""
        if not smoke.has_time("a served answer"):
            return
        health = self._wait(smoke)
        if health is None:
            yield Line("server", f"not up in time: {self.server.said()}", False)
            return
        yield Line("health", f"{health['device']}, {health['arithmetic']}", health["device"] == str(smoke.device))
        sampling = {"max_tokens": self.TOKENS, "temperature": 0.8, "top_p": 1.0, "seed": 3}
        body = {"model": "tiny", "prompt": self.PROMPT, **sampling}
        answers = [self._ask("/v1/completions", body)["choices"][0]["text"] for _ in range(2)]
        yield Line("answers", "asked twice, equal", answers[0] == answers[1] != "")
        self.generate.process.wait(max(smoke.until - time.monotonic(), 1))
        printed = self.generate.out.read_text()
        is_equal = self.generate.process.returncode == 0 and printed == answers[0] + "\n"
        told = f"prints the served answer {answers[0]!r}" if is_equal else f"{printed!r}; {self.generate.said()}"
        yield Line("generate", told, is_equal)

    def _wait(self, smoke: Smoke) -> dict | None:
        while time.monotonic() < smoke.until and self.server.process.poll() is None:
            try:
                return self._ask("/health")
            except OSError:
                time.sleep(0.1)
        return None

    def _ask(self, path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


class Started:
    """A verb of `hyla` as a process; what it prints goes to files, since nobody reads while other parts run."""

    def __init__(self, smoke: Smoke, verb: str, *arguments: str):
        self.out, self.errors = smoke.folder / f"{verb}.out", smoke.folder / f"{verb}.err"
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with self.out.open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from hyla.cli import main; main()", verb, *arguments],
                env=os.environ | {"PYTHONPATH": path},
                stdout=out,
                stderr=errors,
            )

    def said(self) -> str:
        """The end of its standard error."""
        return self.errors.read_text()[-500:]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def row_proofs(smoke: Smoke) -> Lines:
    """Which products are proven row by row, and which take the loop; what row counts agree with each other."""
    shapes = ((48, 44), (129, 36)) if smoke.is_short else ((48, 44), (129, 36), *LINEAR_SHAPES)
    for out_dim, in_dim in shapes:
        block = rows.block_sizes(out_dim, in_dim)[0]
        for dtype in DTYPES:
            name = f"linear {out_dim}x{in_dim} {_short(dtype)}"
            if smoke.has_time(name):
                is_proven = portable.linear_is_proven(block, in_dim, dtype, smoke.device)
                yield Line(
                    name, ("proven" if is_proven else "by the loop") + _row_sets(smoke, block, in_dim, dtype), None
                )
    for inner, columns in BMM_SHAPES[: 2 if smoke.is_short else None]:
        name = f"bmm {inner}x{columns} fp32"
        if smoke.has_time(name):
            is_proven = portable.bmm_is_proven(inner, columns, torch.float32, smoke.device)
            yield Line(name, "proven" if is_proven else "by the loop", None)
    for name, text, is_good in _loops_agree(smoke):
        yield Line(name, text, is_good)


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def _row_sets(smoke: Smoke, out_dim: int, in_dim: int, dtype: torch.dtype) -> str:
    """The library's row counts by equal bits: what faster arithmetics can build on."""
    if smoke.is_short:
        return ""
    weight, x = (data.to(device=smoke.device, dtype=dtype) for data in _row_data(out_dim, in_dim))

    def call(first: int, count: int) -> torch.Tensor:
        return portable.library_linear(x[first : first + count], weight)

    sets = row_checks.agreeing_sets(ROW_COUNTS, call)
    return "; equal rows at " + " | ".join(" ".join(map(str, counts)) for counts, _ in sets)


@lru_cache(maxsize=1)
def _row_data(out_dim: int, in_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and the most rows."""
    generator = torch.Generator().manual_seed(20260106)
    weight = row_checks.check_data(out_dim, in_dim, generator, -1.0)
    return weight, row_checks.check_data(ROW_COUNTS[-1], in_dim, generator, 1.0)


def _loops_agree(smoke: Smoke) -> Iterator[tuple[str, str, bool]]:
    """The loop has the same bits as on the CPU: it is made of single roundings."""
    generator = torch.Generator().manual_seed(8)
    for dtype in DTYPES:
        a, b = torch.randn(5, 70, generator=generator).to(dtype), torch.randn(70, 9, generator=generator).to(dtype)
        there = portable.loop_product(a.to(smoke.device), b.to(smoke.device)).cpu()
        yield f"loop {_short(dtype)}", "has the CPU's bits", torch.equal(there, portable.loop_product(a, b))
        wide = torch.randn(4, 1000, generator=generator)
        there = portable.sum_last(wide.to(smoke.device)).cpu(), portable.running_sum(wide.to(smoke.device), 1).cpu()
        here = portable.sum_last(wide), portable.running_sum(wide, 1)
        yield "sums", "have the CPU's bits", all(map(torch.equal, here, there))


def primitives(smoke: Smoke) -> Lines:
    """Element-wise and row functions, over row counts, widths, offsets and strides."""
    from bench import invariance

    counts = invariance.QUICK_COUNTS
    with torch.no_grad():
        for probe in [*invariance.element_probes(), *invariance.row_probes(backends.is_portable(smoke.device))]:
            if not smoke.has_time(probe.name):
                continue
            found = []
            for dtype in probe.dtypes:
                for width in probe.widths if not smoke.is_short else invariance.WIDTHS[:3]:
                    verdict = invariance.check(probe, width, dtype, smoke.device, counts)
                    found += [f"{_short(dtype)} {width}: {verdict}"] if verdict else []
            yield Line(probe.name, "; ".join(found) or "ok", not found if probe.is_used else None)


class Matrix:
    """Covering cells of the exactness matrix, in processes of their own that start while other parts run."""

    def __init__(self, smoke: Smoke, jobs: int):
        import multiprocessing

        self.cells = pairwise()[: 2 if smoke.is_short else None]
        self.jobs = jobs
        self.pool = None
        if jobs > 0:
            context = multiprocessing.get_context("spawn")
            self.pool = context.Pool(jobs, _start_worker, (str(smoke.device),))
            self.results = [self.pool.apply_async(_run_cell, (cell,)) for cell in self.cells]

    def check(self, smoke: Smoke) -> Lines:
        """Answers have the plain answer's bits, whatever the engine does to get them."""
        if self.pool is None:
            _start_worker(str(smoke.device))
            for cell in self.cells:
                if smoke.has_time(cell.name):
                    yield self._line(cell, *_run_cell(cell))
            return
        waiting = dict(zip(self.cells, self.results))
        while waiting and time.monotonic() < smoke.until:
            done = [cell for cell, result in waiting.items() if result.ready()]
            for cell in done:
                yield self._line(cell, *waiting.pop(cell).get())
            time.sleep(0.02)
        smoke.skipped += [cell.name for cell in waiting]
        if len(waiting) == len(self.cells):  # a process that cannot start says it nowhere else
            yield Line("processes", f"none of {self.jobs} finished a cell", False)

    @staticmethod
    def _line(cell: Cell, problems: list[str], seconds: float, loops: list[str]) -> Line:
        for line in loops:  # said in another process: said here again
            logging.getLogger("hyla.ops").warning(line)
        return Line(cell.name, f"{'; '.join(problems) or 'equal'} ({seconds:.1f} s)", not problems)

    def close(self) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()


class Loops(logging.Handler):
    """Collects the warnings that a product is computed by the loop."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self.lines:
            self.lines.append(record.getMessage())


_loops = Loops()
"""Of a worker."""


def _start_worker(device: str) -> None:
    from matrix import mixers

    torch.set_num_threads(1)
    logging.getLogger("hyla.ops").addHandler(_loops)
    place = devices.resolve_device(device)
    if place.type == "cpu":
        backends.use("portable")
    if mixers.place != place:
        mixers.place_on(place)


def _run_cell(cell: Cell) -> tuple[list[str], float, list[str]]:
    """(problems, seconds, loops that were said meanwhile)."""
    from matrix.check import run_cell

    start = time.perf_counter()
    try:
        problems = run_cell(cell)
    except Exception as error:  # a cell that cannot be computed is a cell that fails
        problems = [f"{type(error).__name__}: {error}"]
    loops, _loops.lines = _loops.lines, []
    return problems, time.perf_counter() - start, loops
