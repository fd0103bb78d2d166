"""From a command to the first token: `hyla serve` beside `import torch`, `hyla --help`, and the parts of it.

    python -m bench start [--folder FOLDER] [--repeats 5] [--memory 1073741824]

Every process is a new one; in each round all ways take their turn, and the first round warms up (compiled Python, the
kernels, the file's pages). The model is the random Qwen3.5-shaped one of bench/qwen35_folder.py unless a folder is
named. The parts are those of an engine in one process, one after another; the server's own work goes on beside them.
Bytes are the processes' own share (PSS) after the first token, and the most that the engine's process ever held.
Targets: a first token at most 1.0 s later than `import torch` takes; bytes at most those of weights and caches and
500 MB.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.http_overhead import ask_for_port
from bench.outcome import Outcome
from bench.qwen35_folder import model_folder
from bench.timing import alternated, medians

NAME = "model"
MOST_LATER_SECONDS, MOST_BESIDE_BYTES = 1.0, 500_000_000
PARTS = """
import json, sys, time
found, last = {}, time.perf_counter()
def lap(name):
    global last
    now = time.perf_counter()
    found[name], last = now - last, now
import torch
lap("import torch")
from hyla.checkpoints import load_model, open_checkpoint
from hyla.engine.hosting import worker
from hyla.engine import Engine, SamplingParams
lap("import hyla")
open_checkpoint(sys.argv[1]).config()
lap("open")
model = load_model(sys.argv[1], pack=True)
lap("place and pack")
engine = Engine(model, memory=int(sys.argv[2]))
lap("engine")
engine.generate([[1, 2, 3, 4]], SamplingParams(max_tokens=1, temperature=0))
lap("first token")
print(json.dumps(found))
"""


def environment(scratch: str) -> dict[str, str]:
    """As after an installation: Python's code is compiled once, and nothing is written to the sources' folder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": scratch}


def share_of(pid: int) -> int:
    """Bytes of a process, shared ones by halves (Linux)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:")[1].split()[0]) * 1024


def peak_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def first_token(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    asked = {"model": NAME, "prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0}
    connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()


def serve(folder: str, memory: int, environ: dict[str, str], held: list[dict]) -> None:
    """Until the first token is here; then the server ends, with what it held in `held`."""
    port = ask_for_port()
    flags = ["--port", str(port), "--memory", str(memory)]
    command = [sys.executable, "-m", "hyla.cli", "serve", f"{NAME}={folder}", *flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ)
    try:
        assert server.stdout is not None and server.stdout.readline(), "the server did not start"
        first_token(port)
        pids = [server.pid, *children_of(server.pid)]
        held.append({"bytes": sum(map(share_of, pids)), "peak_bytes": max(map(peak_of, pids))})
    finally:
        server.terminate()
        server.wait()


def run(options: argparse.Namespace) -> Outcome:
    parts: list[dict[str, float]] = []
    held: list[dict] = []
    with model_folder(options.folder) as folder, tempfile.TemporaryDirectory() as scratch:
        environ = environment(scratch)

        def python(*arguments: str) -> str:
            return subprocess.run([sys.executable, *arguments], env=environ, stdout=subprocess.PIPE, check=True).stdout

        found = alternated(
            {
                "import torch": lambda: python("-c", "import torch"),
                "hyla --help": lambda: python("-m", "hyla.cli", "--help"),
                "hyla serve, first token": lambda: serve(folder, options.memory, environ, held),
                "parts": lambda: parts.append(json.loads(python("-c", PARTS, folder, str(options.memory)))),
            },
            options.repeats,
        )
        weights = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    seconds = medians({name: times for name, times in found.items() if name != "parts"})
    of_parts = medians({name: [one[name] for one in parts[1:]] for name in parts[0]})
    pairs = zip(found["hyla serve, first token"], found["import torch"])
    later = medians({"later": [serving - importing for serving, importing in pairs]})["later"]
    beside = max(one["bytes"] for one in held) - weights - options.memory
    for name, value in (seconds | {f"  {name}": value for name, value in of_parts.items()}).items():
        print(f"{value:8.3f} s  {name}")
    most = max(one["peak_bytes"] for one in held)
    print(f"later than import torch: {later:.3f} s; bytes beside weights and caches: {beside:,}; at most {most:,}")
    results = {
        "seconds": seconds,
        "parts": of_parts,
        "later_seconds": later,
        "bytes_beside": beside,
        "peak_bytes": most,
    }
    return Outcome(results, later <= MOST_LATER_SECONDS and beside <= MOST_BESIDE_BYTES, found)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", help="a model folder; default: the random Qwen3.5-shaped model")
    parser.add_argument("--memory", type=int, default=1 << 30, help="bytes for caches")
    parser.add_argument("--repeats", type=int, default=5)
