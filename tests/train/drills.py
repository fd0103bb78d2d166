"""Kill drills: real `hyla train` processes are killed with signal 9 at chosen moments until one of them finishes, and
what is left must be what an undisturbed process leaves.

python tests/train/drills.py FOLDER [COUNT]: so many drills (20), a line each.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "tokens_per_second", "memory_bytes", "peak_memory_bytes")
"""What a line of metrics.jsonl says of the clock."""
PATIENCE = 600.0
"""Seconds after which a process hangs."""
LOOK_AGAIN = 0.0005
"""Seconds between two looks at the file system. A save of these runs takes some milliseconds."""

MODEL = """
[model.hybrid]
pattern = "KM"
vocab_size = 300
hidden_dim = 32
num_heads = 2
head_dim = 16
rope_dim = 8
kv_lora_dim = 24
dense_dim = 48
num_experts = 4
expert_dim = 16
shared_dim = 32
"""
TEXTS = "\n[data]\ntexts = 'texts'\nheldout_share = 0.2\n"
TRAIN = """
[train]
steps = 24
seed = 3
batch_tokens = 192
max_document_tokens = 70
checkpoint_every = 4
loss_rows = 100
"""
RECIPES = {
    "fp32 KDA": MODEL.replace("KM", "KK") + TEXTS + TRAIN + "optimizer = 'adamw'\n",
    "bf16 in passes with EMA": MODEL + TEXTS + TRAIN + "dtype = 'bf16'\nmicro_batch_tokens = 80\n"
    "average = { kind = 'ema', decay = 0.8 }\nheldout = { every = 5, tokens = 300 }\n",
    "Muon with bf16 states": MODEL + TEXTS + TRAIN + "optimizer = 'muon'\nstate_dtype = 'bf16'\nmuon_unit = 'head'\n"
    "ramp = { batch_tokens = 96, steps = 12 }\nrouter = { bias_rate = 1e-3 }\n",
    "DPO": "[model]\nstart_from = 'start'\n[dpo]\npairs = 'pairs.jsonl'\npairs_per_step = 3\n"
    + TRAIN
    + "optimizer = 'adamw'\nlearning_rate = 1e-3\n",
}


@dataclass(frozen=True)
class Moment:
    """When a process is killed."""

    kind: str
    """"step": so many lines of metrics.jsonl are there. "save": the checkpoint of that step, or a later one, is being
    written. "model": the model is being saved in the end. "preparation": the run's folder is being filled. "any": so
    many milliseconds after the process's first step."""
    number: int = 1

    def has_come(self, run: Path, started: float, begun_ns: int) -> bool:
        """Whether it is now. started: the clock when the first line of this process was there. begun_ns: when the
        process began; what is older, a killed one left."""
        if self.kind == "step":
            return num_lines(run) >= self.number
        if self.kind == "save":
            partials = (run / "checkpoints").glob(".step-*.partial")
            return any(int(place.name[6:14]) >= self.number and changed_ns(place) > begun_ns for place in partials)
        if self.kind == "model":
            return any(changed_ns(place) > begun_ns for place in run.glob(".model-*"))
        if self.kind == "preparation":
            return changed_ns(run.with_name(f".{run.name}.partial")) > begun_ns
        return started > 0 and (time.monotonic() - started) * 1000 >= self.number


@dataclass(frozen=True)
class Drill:
    """A recipe, and the moments at which its processes are killed, one after the other."""

    recipe: str
    moments: tuple[Moment, ...]


def drills(count: int, seed: int = 0) -> list[Drill]:
    """So many, of all recipes in turn; each has a save among its moments, and others drawn by chance."""
    chance, names = random.Random(seed), list(RECIPES)
    kinds: dict[str, Callable[[], Moment]] = {
        "step": lambda: Moment("step", chance.randint(1, 22)),
        "save": lambda: Moment("save", 4 * chance.randint(1, 6)),
        "any": lambda: Moment("any", chance.randint(0, 400)),
        "preparation": lambda: Moment("preparation"),
        "model": lambda: Moment("model"),
    }
    order = {"preparation": -1.0, "model": 1e9}
    found = []
    for number in range(count):
        more = [chance.choice(["step", "save", "any"]), chance.choice(list(kinds))]
        moments = [kinds[kind]() for kind in ("save", *more)]
        moments.sort(key=lambda moment: order.get(moment.kind, float(moment.number)))
        found.append(Drill(names[number % len(names)], tuple(moments)))
    return found


def changed_ns(place: Path) -> int:
    """When something was put into a folder; 0 where it is gone."""
    try:
        return place.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def num_lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def prepare(folder: Path) -> None:
    """What the recipes read, and the recipes."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/train"), str(ROOT / "tests/engine")]
    from test_preferences import TEMPLATE, pair, small_model
    from tiny_run import write_text_folder
    from tiny_text import byte_tokenizer

    from hyla.checkpoints import save_model

    folder.mkdir(parents=True, exist_ok=True)
    write_text_folder(folder / "texts")
    tokenizer = byte_tokenizer(TEMPLATE)
    save_model(small_model(tokenizer), folder / "start", tokenizer=tokenizer)
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(pair(number)) for number in range(10)))
    for name, text in RECIPES.items():
        recipe_of(folder, name).write_text(text)


def recipe_of(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.toml"


class Process:
    """`hyla train`, or another verb, in a process of its own, with its own exit. It is forked from one that has
    imported PyTorch already, since that alone takes seconds; what it says is in a log beside the run."""

    def __init__(self, recipe: Path, run: Path, verb: str = "train"):
        self.log = run.with_name(f"{run.name}.log")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hyla.cli.training", "hyla.train.preferences", "hyla.cli.rl_lines"])
        self._process = context.Process(target=train, args=(verb, str(recipe), str(run), str(self.log)))
        with one_thread():
            self._process.start()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        if self._process.pid is not None and self.is_alive:
            os.kill(self._process.pid, number)

    def exit_status(self) -> int:
        """Once it is over; negative: the signal that ended it."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, "it hangs"
        return self._process.exitcode

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@contextmanager
def one_thread() -> Iterator[None]:
    """For processes that are started inside: other counts of threads have other bits."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def train(verb: str, recipe: str, run: str, log: str) -> None:
    """What runs in the process."""
    sys.stdout.flush(), sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a fork server has it off
    sys.argv = ["hyla", verb, recipe, "--out", run]
    from hyla.cli import main

    sys.exit(main())


def killed(recipe: Path, run: Path, moment: Moment, verb: str = "train") -> bool:
    """Start a process and kill it at the moment; False where it finished before."""
    lines, first, begun_ns = num_lines(run), 0.0, time.time_ns()
    process, deadline = Process(recipe, run, verb), time.monotonic() + PATIENCE
    try:
        while process.is_alive:
            assert time.monotonic() < deadline, f"{recipe.stem} hangs"
            if first == 0 and num_lines(run) != lines:
                first = time.monotonic()
            if moment.has_come(run, first, begun_ns):
                break
            time.sleep(LOOK_AGAIN)
    finally:
        process.send(signal.SIGKILL)
    status = process.exit_status()
    assert status in (0, -signal.SIGKILL), process.said()
    return status != 0


def finished(recipe: Path, run: Path, verb: str = "train") -> Path:
    """The run after a process that nobody disturbs."""
    process = Process(recipe, run, verb)
    assert process.exit_status() == 0, process.said()
    return run


def leftovers(run: Path) -> list[str]:
    """Names of unfinished folders that a kill left."""
    places = [*run.glob("checkpoints/.step-*.partial"), *run.glob(".model-*"), *run.parent.glob(f".{run.name}.partial")]
    return [place.name for place in places]


def curve(run: Path) -> list[dict]:
    """Every line of metrics.jsonl and heldout.jsonl, floats to the last bit, without the clock's."""
    lines = [line for name in ("metrics.jsonl", "heldout.jsonl") for line in _lines(run / name)]
    return [
        {key: value.hex() if isinstance(value, float) else value for key, value in line.items() if key not in TIMES}
        for line in lines
    ]


def _lines(file: Path) -> Iterator[dict]:
    yield from map(json.loads, file.read_text().splitlines() if file.exists() else [])


def weights(run: Path) -> dict[str, bytes]:
    """Files with numbers: of the last checkpoint and of the saved model."""
    last = max((run / "checkpoints").glob("step-*"))
    files = [*last.glob("*.safetensors"), *(run / "model").glob("*.safetensors"), *run.glob("*.safetensors")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def disturbed(folder: Path, drill: Drill, run: Path) -> list[str]:
    """Go through a drill; what each kill hit. The run is finished then."""
    recipe, hit = recipe_of(folder, drill.recipe), []
    for moment in drill.moments:
        if killed(recipe, run, moment):
            hit.append(f"{moment.kind} {moment.number}, {num_lines(run)} lines, left {leftovers(run) or 'nothing'}")
    finished(recipe, run)
    assert not leftovers(run)
    return hit


def main(folder: Path, count: int) -> None:
    """All drills, a line each; ends with an error at the first that differs."""
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder)
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    whole = {name: finished(recipe_of(folder, name), folder / "whole" / str(n)) for n, name in enumerate(RECIPES)}
    kills = 0
    for number, drill in enumerate(drills(count), start=1):
        run = folder / "killed" / str(number)
        hit = disturbed(folder, drill, run)
        kills += len(hit)
        same = curve(run) == curve(whole[drill.recipe]) and weights(run) == weights(whole[drill.recipe])
        print(f"{number}: {drill.recipe}: killed {len(hit)} times ({'; '.join(hit)}): {'equal' if same else 'DIFFERS'}")
        assert same, run
    print(json.dumps({"drills": count, "kills": kills, "differ": 0}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
