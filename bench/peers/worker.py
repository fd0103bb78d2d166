"""One engine, asked over standard input and answering on standard output, a line of JSON each.

    PYTHON_OF_THE_ENGINE -m bench.peers.worker {hyla,llama,vllm,openvino,transformers,memory}

A request is {"verb": NAME, ...}: the engine's method and its arguments; the answer {"result": ...} or {"error": ...}.
The first one is `load`. Only what the engine needs is imported: every one lives in an environment of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module

VERBS = ("load", "best", "prefill", "start", "fill", "decode", "batch", "read")
"""What engines may have (bench/peers/engines/protocol.py)."""


def answer(engine: object, line: str) -> dict:
    request = json.loads(line)
    verb = request.pop("verb")
    try:
        if verb not in VERBS or not hasattr(engine, verb):
            raise NotImplementedError(f"this engine has no way to {verb}")
        return {"result": getattr(engine, verb)(**request)}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        words = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {words[0] if words else ''}"[:300]}


def main(name: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    engine = import_module(f"bench.peers.engines.{name}").ENGINE()
    for line in sys.stdin:
        print(json.dumps(answer(engine, line)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
