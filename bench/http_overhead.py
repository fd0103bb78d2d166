"""What HTTP costs: 32 requests at once through `hyla serve`, beside the same ones given to an engine in this process.

    python -m bench http_overhead [--folder FOLDER] [--requests 32] [--answer 64] [--repeats 10]

The model is the random Qwen3.5-shaped one of bench/qwen35_folder.py unless a folder is named. Prompts are 16 token ids,
new in every round; both ways alternate, and their answers must be equal. The client of the server runs on the same
cores, so it is as small as it can be (plain sockets, nothing is parsed before the clock stops); what it takes counts as
the server's. Intervals are 95% of the ratio of paired runs. Target: at most 5% at 32 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from functools import partial

from bench.engine import tokens
from bench.outcome import Outcome
from bench.qwen35_folder import model_folder
from bench.timing import interval
from hyla.engine import Engine, EngineThread, Request, SamplingParams

NAME, MEMORY = "model", 3 << 30
WAYS = ("whole", "streamed")


def in_process(thread: EngineThread, prompts: list[list[int]], answer: int) -> tuple[float, list[list[int]]]:
    """Seconds, and the answers' ids."""
    answers, left, done = [[] for _ in prompts], [len(prompts)], threading.Event()

    def listener(index: int):
        def listen(event):
            answers[index] += event.token_ids
            if event.finish_reason is not None:
                left[0] -= 1
                if not left[0]:
                    done.set()

        return listen

    params = SamplingParams(max_tokens=answer, temperature=0, ignore_eos=True, seed=1)
    start = time.perf_counter()
    for n, prompt in enumerate(prompts):
        thread.submit(Request(f"{id(prompts)}-{n}", tuple(prompt), params), listener(n))
    done.wait()
    return time.perf_counter() - start, answers


async def ask(port: int, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return answer


def over_http(port: int, prompts: list[list[int]], answer: int, *, is_streamed: bool) -> tuple[float, list[list[int]]]:
    """Seconds, and the answers' ids."""
    asked = {"model": NAME, "max_tokens": answer, "temperature": 0, "ignore_eos": True, "seed": 1}
    asked |= {"stream": is_streamed, "return_token_ids": True}
    bodies = [json.dumps(asked | {"prompt": prompt}).encode() for prompt in prompts]

    async def all_of_them():
        return await asyncio.gather(*(ask(port, body) for body in bodies))

    start = time.perf_counter()
    got = asyncio.run(all_of_them())
    seconds = time.perf_counter() - start
    return seconds, [ids_of(own, is_streamed) for own in got]


def ids_of(answer: bytes, is_streamed: bool) -> list[int]:
    body = answer.partition(b"\r\n\r\n")[2]
    if not is_streamed:
        return json.loads(body)["choices"][0]["token_ids"]
    lines = [line for line in body.splitlines() if line.startswith(b"data: {")]
    return [token for line in lines for own in json.loads(line[6:])["choices"] for token in own.get("token_ids") or ()]


def start_server(folder: str, dtype: str) -> tuple[subprocess.Popen, int]:
    from hyla.server.listening import listen

    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--memory", str(MEMORY), "--max-num-sequences", "32", "--dtype", dtype]
    server = subprocess.Popen(
        [sys.executable, "-m", "hyla.cli", "serve", f"{NAME}={folder}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    server.stdout.readline()
    return server, port


def measure(folder: str, options: argparse.Namespace) -> dict:
    server, port = start_server(folder, options.dtype)
    thread = EngineThread(Engine(folder, dtype=options.dtype, memory=MEMORY, max_num_sequences=32))
    thread.start()
    found = {}
    try:
        for way in options.ways:
            http = partial(over_http, port, answer=options.answer, is_streamed=way == "streamed")
            found[way] = paired(
                partial(in_process, thread, answer=options.answer), http, way, thread.facts.vocab_size, options
            )
    finally:
        thread.stop()
        server.terminate()
        server.wait()
    return found


def paired(engine, http, way: str, vocabulary: int, options: argparse.Namespace) -> dict:
    """Throughput of HTTP relative to the engine's, over rounds of new prompts; the first one warms up."""
    seconds = {"engine": [], "http": []}
    for repeat in range(options.repeats + 1):
        drawn = [[len(way), *tokens(15, 1000 * repeat + n)] for n in range(options.requests)]
        prompts = [[token % vocabulary for token in prompt] for prompt in drawn]
        order = (("engine", engine), ("http", http))
        answers = {}
        for name, run in order if repeat % 2 else order[::-1]:
            taken, answers[name] = run(prompts)
            seconds[name].append(taken)
        print(f"{way} {repeat}: engine {seconds['engine'][-1]:.2f} s, HTTP {seconds['http'][-1]:.2f} s", flush=True)
        assert answers["engine"] == answers["http"], f"{way}: HTTP answers differently"
    rates = {name: [options.requests * options.answer / one for one in own[1:]] for name, own in seconds.items()}
    found = {name: statistics.median(own) for name, own in rates.items()}
    return found | interval([two / one for one, two in zip(*rates.values())]) | {"rates": rates}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", help="a model folder; default: the random Qwen3.5-shaped model")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--answer", type=int, default=64, help="tokens")
    parser.add_argument("--repeats", type=int, default=10)


def run(options: argparse.Namespace) -> Outcome:
    with model_folder(options.folder) as folder:
        found = measure(folder, options)
    for way, numbers in found.items():
        share = f"{numbers['ratio']:.3f} [{numbers['low']:.3f}, {numbers['high']:.3f}]"
        print(f"{way}: engine {numbers['engine']:.1f}, HTTP {numbers['http']:.1f} tokens/s, ratio {share}")
    return Outcome(found)
