"""Every number that Hyla computes, as hashes: whether a change of the source changed a bit of any of them.

    python tests/recorded/record.py --check                  compare with hashes.json; exit status 1 on any difference
    python tests/recorded/record.py --check --quick          logits, decoding, gradients and caches with one thread
    python tests/recorded/record.py --check --only kimi      families (or presets) whose name has this part
    python tests/recorded/record.py --write                  write hashes.json (with --only or --quick: that part of it)

README: run `--write` before a change that must change no number (on the machine at hand: the numbers depend on the
processor, on torch and on the compiler, which hashes.json names), and `--check` after each step of it. A change that is
meant to change a number writes again, and the difference of hashes.json shows which numbers it changed: keys are
`<family>/<dtype>/<backend>-<threads>/<what>`, and what does not depend on backend and threads (folders, presets) has no
such part. The tiny models of all families are computed by both CPU backends, with one and two threads, each in a
process of its own. If the source moves, only the imports below have to follow it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import safe_open

# All that this file knows about where things are.
import hyla
from hyla.caches import Cache
from hyla.checkpoints import save_model
from hyla.cost import Question, Target, target_report
from hyla.engine import Engine, SamplingParams
from hyla.models.formats import Family, families
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops import backends, native
from hyla.ops.batch import Batch
from hyla.ops.host_memory import keep_freed_memory


def mixer_kinds(model: Model) -> list[str]:
    """Of the layers of the trunk's cache and then of each step's of multi-token prediction, in order."""
    modules = [module for module in model.config.mtp for _ in range(module.num_steps)]
    steps = [sub.module for module in modules for sub in module.sublayers if sub.module.kind not in ("mlp", "moe")]
    return [mixer.kind for mixer in (*model.config.mixers, *steps)]


def own_rows(cache: Cache, sequence) -> Iterator[tuple[int, str, torch.Tensor]]:
    """(layer, name, rows of this sequence) of every cached tensor: its slot, and its pages in order."""
    for index, (spec, layer) in enumerate(zip(cache.specs, cache.layers, strict=True)):
        pages = [page for page in sequence.tables[spec.window] if page]
        for tensor in spec.slot_tensors:
            yield index, tensor.name, layer[tensor.name][sequence.slot]
        for tensor in spec.page_tensors:
            yield index, tensor.name, layer[tensor.name][pages]


FILE = Path(__file__).with_name("hashes.json")
LENGTH = 140
PIECES = (70, 33, 21, *[1] * 8, 8)
"""The single tokens go over the end of the second chunk."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SETTINGS = (("native", 1), ("torch", 1), ("native", 2), ("torch", 2))
"""(backend, threads)"""
QUICK = ("logits", "decoding", "gradients", "loss", "cache", "mtp_cache")
CONTEXTS = (1 << 10, 1 << 16)


def digest(*parts) -> str:
    """Of tensors by dtype, shape and bytes; of anything else by its text (the shortest that gives the same floats)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().contiguous()
            total.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
            total.update(part.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            total.update(part if isinstance(part, bytes) else f"{part!r}\n".encode())
    return total.hexdigest()[:16]


# The numbers. Each function gives pairs (what, hash).


def tiny_model(family: Family, dtype: torch.dtype) -> Model:
    return cast(initialize(Model(family.tiny), 5, std=0.2), dtype)


def uneven_model(family: Family, dtype: torch.dtype) -> Model:
    """With norms that differ from one and biased routers."""
    model = initialize(Model(family.tiny), 5, std=0.2)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "norm" in name or "router_bias" in name:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return cast(model, dtype)


def tokens(model: Model, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed))


def whole(model: Model):
    (logits,) = model.train().logits([tokens(model, LENGTH).tolist()])
    yield "logits", digest(logits)


@torch.inference_mode()
def in_pieces(model: Model) -> tuple[list[torch.Tensor], list[tuple[str, str]]]:
    """Logits through the cache, of the trunk and of each step of multi-token prediction, and hashes of all caches."""
    specs = [model.cache_specs(), *(model.mtp_cache_specs(step) for step in range(model.num_mtp_steps))]
    cache = Cache([spec for part in specs for spec in part], num_pages=8, num_slots=2)
    layers = iter(cache.layers)
    trunk, *steps = [tuple(next(layers) for _ in part) for part in specs]
    neighbour, sequence = cache.open(), cache.open()
    ids = tokens(model, LENGTH + model.num_mtp_steps)
    logits = [[] for _ in specs]
    for size in PIECES:
        batch = cache.batch([(sequence, size)])
        (start,), (end,) = batch.starts, batch.ends
        hidden = model.hidden(ids[start:end], batch, trunk)
        logits[0].append(model.head_logits(hidden.head_TD))
        for step, caches in enumerate(steps):
            hidden = model.predict_next(
                ids[start + step + 1 : end + step + 1], hidden.next_TD, batch, caches, step=step
            )
            logits[step + 1].append(model.head_logits(hidden.head_TD, step=step))
        cache.commit(sequence, size)
    kinds = mixer_kinds(model)
    rows = [(f"{n}/{kinds[n]}/{name}", digest(rows)) for n, name, rows in own_rows(cache, sequence)]
    cache.close(sequence)
    cache.close(neighbour)
    return [torch.cat(rows) for rows in logits], rows


def decoding(model: Model):
    (logits, *_), rows = in_pieces(model)
    yield "decoding", digest(logits)
    for name, value in rows:
        is_step = int(name.split("/")[0]) >= len(model.cache_specs())
        yield f"{'mtp_cache' if is_step else 'cache'}/{name}", value


def packed(model: Model):
    model.eval().pack()
    with torch.inference_mode():
        yield "packed/logits", digest(*model.logits([tokens(model, LENGTH).tolist()]))
    (logits, *steps), _ = in_pieces(model)
    yield "packed/decoding", digest(logits)
    for step, rows in enumerate(steps):
        yield f"packed/mtp/{step}", digest(rows)
    model.unpack()


def gradients_of(model: Model, loss: torch.Tensor) -> str:
    model.zero_grad(set_to_none=True)
    loss.backward()
    named = sorted(model.named_parameters())
    assert any(parameter.grad is not None for _, parameter in named)
    found = [(name, "none" if parameter.grad is None else parameter.grad) for name, parameter in named]
    model.zero_grad(set_to_none=True)
    return digest(*(part for pair in found for part in pair))


def gradients(model: Model):
    """Of the summed cross-entropy of two packed documents; parameters that get none count as such."""
    documents = [tokens(model, 75, seed=1), tokens(model, 131, seed=2)]
    logits = model.train().logits([ids[:-1].tolist() for ids in documents])
    pairs = zip(logits, documents)
    loss = sum(torch.nn.functional.cross_entropy(rows, ids[1:], reduction="sum") for rows, ids in pairs)
    yield "loss", digest(loss)
    yield "gradients", gradients_of(model, loss)


def multi_token(model: Model):
    """Whole, in pieces and the gradients of every parameter."""
    count = model.num_mtp_steps
    ids, batch = tokens(model, LENGTH + count), Batch.packed([LENGTH])
    hidden, loss = model.train().hidden(ids[:LENGTH], batch), torch.zeros(())
    for step in range(count):
        targets = ids[step + 1 :][:LENGTH]
        hidden = model.predict_next(targets, hidden.next_TD, batch, step=step)
        logits = model.head_logits(hidden.head_TD, step=step)
        loss = loss + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        yield f"mtp/{step}/logits", digest(logits)
    yield "mtp/gradients", gradients_of(model, loss)
    for step, rows in enumerate(in_pieces(model)[0][1:]):
        yield f"mtp/{step}/decoding", digest(rows)


def answers(model: Model):
    """Sampled by one engine: once, and then again with most of the prompt in the prefix cache, beside an answer of four
    ids that repeat often enough for drafts."""
    engine = Engine(model, memory=32 << 20, max_num_sequences=2, speculation="lookup", fixed_drafts=True)
    prompt = tokens(model, LENGTH).tolist()
    fields = {"max_tokens": 40, "temperature": 0.8, "seed": 3, "logprobs": 2, "ignore_eos": True}
    free, narrow = SamplingParams(**fields), SamplingParams(**fields, allowed_token_ids=(3, 4, 5, 6))
    (first,) = engine.generate(prompt, free)
    second, drafted = engine.generate([prompt, prompt], [free, narrow])
    cached = [done.usage.cached_tokens for done in (first, second, drafted)]
    assert cached == [0, 128, 128] and drafted.usage.drafted_tokens, (cached, drafted.usage)
    for name, done in (("first", first), ("second", second), ("drafted", drafted)):
        assert done.error is None, done.error
        entries = [(entry.token_id, entry.logprob, entry.top, entry.rank) for entry in done.logprobs]
        yield f"answer/{name}", digest(done.token_ids, entries, done.finish_reason)
    model.unpack()


def folder(model: Model):
    """What `save_model` writes: files by their bytes, tensors by name."""
    with tempfile.TemporaryDirectory() as place:
        save_model(model, Path(place) / "m")
        for file in sorted((Path(place) / "m").iterdir()):
            parts = [file.read_bytes()]
            if file.suffix == ".safetensors":
                with safe_open(file, "pt") as stored:
                    parts = [part for name in sorted(stored.keys()) for part in (name, stored.get_tensor(name))]
            yield f"folder/{file.name}", digest(*parts)


def preset(family: Family, name: str):
    """A published size: its config and what it costs."""

    def of(value) -> str:
        return digest(json.dumps(value))

    config = family.preset(name)
    yield "config", of(family.config_to_hf(config))
    for arithmetic in ("usual", "hyla"):
        question = Question(contexts=CONTEXTS, arithmetic=arithmetic, train_length=4096)
        report = target_report(Target(name, config), question)
        if arithmetic == "usual":
            for key in ("parameters", "weight_bytes", "mixers", "channel_mixers", "training"):
                yield f"cost/{key}", of(report[key])
        for figures in report["contexts"]:
            context = figures["context_tokens"]
            for part in ("flops", "bytes"):
                values = {k: v for k, v in figures.items() if k.startswith(("prefill_", "decode_")) and part in k}
                yield f"cost/{arithmetic}/{part}/{context}", of(values)
            if arithmetic == "usual":
                values = {key: value for key, value in figures.items() if not key.startswith(("prefill_", "decode_"))}
                yield f"cost/cache/{context}", of(values)


# The command


def record(backend: str | None, threads: int, only: str, quick: bool) -> dict[str, str]:
    """The hashes of one process. backend: None for what does not depend on it."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    backends.use(backend or "torch")
    found: dict[str, str] = {}

    def add(prefix: str, pairs) -> None:
        for what, value in pairs:
            key = f"{prefix}/{what}"
            assert key not in found, key
            found[key] = value

    for family in families():
        for name in family.sizes if backend is None else ():
            if only in family.name or only in name:
                add(f"{family.name}/preset/{name}", preset(family, name))
        for dtype in DTYPES if only in family.name else ():
            if backend is None:
                add(f"{family.name}/{dtype}", folder(tiny_model(family, DTYPES[dtype])))
                continue
            prefix, model = f"{family.name}/{dtype}/{backend}-{threads}", tiny_model(family, DTYPES[dtype])
            for part in (whole, decoding, gradients):
                add(prefix, part(model))
            if quick:
                continue
            add(prefix, packed(model))
            if threads == 1:
                add(prefix, answers(model))
            uneven = uneven_model(family, DTYPES[dtype])
            add(f"{prefix}/uneven", whole(uneven))
            if uneven.num_mtp_steps:
                add(prefix, multi_token(uneven))
    return found


def is_asked(key: str, only: str, quick: bool) -> bool:
    """Whether a run with these options computes this key."""
    family, second, third, *what = key.split("/")
    if only not in family and not (second == "preset" and only in third):
        return False
    return not quick or (third.endswith("-1") and what[0] in QUICK)


def jobs(quick: bool) -> list[tuple[str | None, int]]:
    one = [setting for setting in SETTINGS if setting[1] == 1]
    return one if quick else [*one, (None, 1), *(setting for setting in SETTINGS if setting[1] > 1)]


def compute(only: str = "", quick: bool = False) -> dict[str, str]:
    """All hashes that are asked for, each (backend, threads) in a process of its own."""
    native.library()  # compiled once, before anybody asks for it at the same time
    source = os.pathsep.join([str(Path(hyla.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def run(job: tuple[str | None, int]) -> dict[str, str]:
        backend, threads = job
        command = [sys.executable, __file__, "--job", str(backend), str(threads), "--only", only]
        # Threads that wait must not spin: the machine's cores are shared.
        more = {"PYTHONPATH": source, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run(
            command + ["--quick"] * quick, env=os.environ | more, stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(done.stdout)

    found: dict[str, str] = {}
    with ThreadPoolExecutor(max(os.cpu_count() or 1, 1)) as pool:
        for part in pool.map(run, jobs(quick)):
            assert not found.keys() & part.keys()
            found |= part
    return found


def header() -> dict[str, str]:
    """What the numbers depend on beside the source."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0] if info.exists() else ""
    facts = dict(re.findall(r"^(model name|cpu family|model|stepping)\s*: (.*)$", first, re.MULTILINE))
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    return {
        "processor": ", ".join(f"{name} {value}" for name, value in facts.items()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "compiler": compiler,
        "torch": torch.__version__,
    }


def stored() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(found: dict[str, str]) -> None:
    """One entry a line, sorted."""
    content = {**header(), "hashes": dict(sorted(found.items()))}
    FILE.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def differences(found: dict[str, str], expected: dict[str, str]) -> dict[tuple[str, str], list[str]]:
    """By (family, what): where the two differ, or only one has a value."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            family, second, third, *what = key.split("/")
            place = f"{second}/{third}" if what else second
            if key not in found or key not in expected:
                place += " (missing now)" if key not in found else " (not in hashes.json)"
            grouped.setdefault((family, "/".join(what) or third), []).append(place)
    return grouped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verb = parser.add_mutually_exclusive_group(required=True)
    verb.add_argument("--check", action="store_true", help="compare with hashes.json")
    verb.add_argument("--write", action="store_true", help="write hashes.json")
    verb.add_argument("--job", nargs=2, metavar=("BACKEND", "THREADS"), help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="families and presets with this in their name")
    parser.add_argument("--quick", action="store_true", help="one thread; logits, decoding, gradients and caches only")
    args = parser.parse_args()
    if args.job:
        backend, threads = args.job
        print(json.dumps(record(None if backend == "None" else backend, int(threads), args.only, args.quick)))
        return 0
    found = compute(args.only, args.quick)
    if not found:
        parser.error(f"no family and no preset has {args.only!r} in its name")
    is_part = bool(args.only or args.quick)
    old = stored() if args.check or is_part else {"hashes": {}}
    machine = header()
    others = [
        f"{name}: {old.get(name)!r} then, {value!r} now" for name, value in machine.items() if old.get(name) != value
    ]
    if others and (args.check or is_part):
        print("hashes.json is of another machine; its numbers need not be these:", *others, sep="\n  ")
    if args.write:
        if is_part and others:
            return 1
        kept = {key: value for key, value in old["hashes"].items() if not is_asked(key, args.only, args.quick)}
        write(kept | found)
        print(f"{len(found)} hashes written, {len(kept)} kept")
        return 0
    expected = {key: value for key, value in old["hashes"].items() if is_asked(key, args.only, args.quick)}
    grouped = differences(found, expected)
    for (family, what), places in grouped.items():
        print(f"{family}  {what}: {', '.join(places)}")
    count = sum(map(len, grouped.values()))
    by_family = Counter({family: 0 for family, _ in grouped})
    for (family, _), places in grouped.items():
        by_family[family] += len(places)
    print(f"{len(found.keys() | expected.keys())} hashes compared, {count} differ")
    for family, number in by_family.items():
        print(f"  {family}: {number}")
    return 1 if grouped else 0


if __name__ == "__main__":
    sys.exit(main())
