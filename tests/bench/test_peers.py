"""`python -m bench peers`: workers that die, hang, talk nonsense or are stopped; rounds, ratios, tables, goals."""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.machine import ROOT
from bench.peers import command, environments, goals, models, parts, stage, tables
from bench.peers.goals import Goal
from bench.peers.models import Files, Model
from bench.peers.process import Peer, PeerError
from bench.peers.rounds import Row, each, interleaved, tokens_per_second
from bench.peers.worker import answer

FAKE = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    verb = request["verb"]
    if verb == "die":
        print("out of memory", file=sys.stderr); sys.exit(3)
    if verb == "hang":
        time.sleep(600)
    if verb == "count":
        open(sys.argv[1], "a").write("x")
    words = {"talk": "ready!", "refuse": json.dumps({"error": "too long"}), "list": "[1]", "half": '{"result"'}
    print(words.get(verb) or json.dumps({"result": request.get("value")}), flush=True)
"""
SPINNING = """
import sys, threading, time
place, count = open(sys.argv[1], "wb", buffering=0), 0
def spin():
    global count
    while True:
        count += 1; place.seek(0); place.write(b"%020d" % count); time.sleep(0.001)
threading.Thread(target=spin, daemon=True).start()
for line in sys.stdin:
    print('{"result": 1}', flush=True)
"""


@pytest.fixture
def started(tmp_path):
    """Starts workers, and ends them after the test."""
    peers = []

    def start(code=FAKE, patience=30.0):
        log = tmp_path / f"{len(peers)}.log"
        peers.append(Peer([sys.executable, "-c", code, str(tmp_path / "written")], log, patience=patience))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


def alive(peer: Peer) -> bool:
    return peer.process.poll() is None


def test_a_worker_answers_and_a_refusal_leaves_it_alive(started):
    peer = started()
    assert peer.ask("echo", value=[1, 2]) == [1, 2]
    with pytest.raises(PeerError, match=r"^too long$"):
        peer.ask("refuse")
    assert peer.ask("echo", value=3) == 3 and alive(peer)


def test_a_worker_that_dies_says_its_last_words_then_and_later(started):
    peer = started()
    for verb in ("die", "echo"):
        with pytest.raises(PeerError, match=r"^ended with 3: out of memory$"):
            peer.ask(verb)


def test_a_worker_that_hangs_is_ended(started):
    peer = started(patience=0.3)
    with pytest.raises(PeerError, match="no answer to hang in 0 s"):
        peer.ask("hang")
    assert not alive(peer)


@pytest.mark.parametrize("verb", ["talk", "list", "half"])
def test_a_worker_that_answers_nonsense_is_ended(started, verb):
    peer = started()
    with pytest.raises(PeerError, match=f"^answered .* to {verb}"):
        peer.ask(verb)
    assert not alive(peer)


def test_a_command_that_is_not_there_is_a_reason(tmp_path):
    with pytest.raises(PeerError, match="does not start"):
        Peer([str(tmp_path / "nothing")], tmp_path / "log")


def test_a_resting_worker_does_nothing_until_it_is_woken(started, tmp_path):
    peer, place = started(SPINNING), tmp_path / "written"

    def written() -> bytes:
        return place.read_bytes()

    def moves() -> bool:
        before, until = written(), time.monotonic() + 30
        while written() == before and time.monotonic() < until:
            time.sleep(0.01)
        return written() != before

    assert peer.ask("any") == 1 and moves()
    peer.rest()
    state = Path(f"/proc/{peer.process.pid}/stat")
    until = time.monotonic() + 30
    while state.read_text().rpartition(")")[2].split()[0] != "T" and time.monotonic() < until:
        time.sleep(0.01)
    before = written()
    time.sleep(0.1)
    assert written() == before
    peer.wake()
    assert moves() and peer.ask("any") == 1
    peer.rest()
    peer.close()  # a stopped process ends too
    assert not alive(peer)


class Scripted:
    """A peer whose rates are given; writes down who works, and that nobody else is awake."""

    awake: list = []  # noqa: RUF012

    def __init__(self, name, values, order):
        self.name, self.values, self.order = name, iter(values), order

    def wake(self):
        self.awake.append(self.name)

    def rest(self):
        self.awake.remove(self.name)

    def close(self):
        pass

    def ask(self, verb, **arguments):
        assert self.awake == [self.name]
        self.order.append(self.name)
        value = next(self.values)
        if isinstance(value, str):
            raise PeerError(value)
        return value


def scripted(order=None, **values):
    return {name: Scripted(name, own, [] if order is None else order) for name, own in values.items()}


def ask(peer):
    return peer.ask("work")


def test_rounds_alternate_their_order_and_the_first_does_not_count():
    order = []
    peers = scripted(order, hyla=[1, 10, 30, 20], llama=[1, 5, 10, 40])
    row = interleaved("work", peers, ask, 3)
    assert row.rates == {"hyla": [10, 30, 20], "llama": [5, 10, 40]}
    assert order == ["hyla", "llama", "llama", "hyla", "hyla", "llama", "llama", "hyla"]
    assert row.median("hyla") == 20 and row.ratios("llama") == (2, 0.5, 3)


def test_an_engine_that_fails_leaves_the_row_and_the_others_go_on():
    peers = scripted(hyla=[1, 2, 3], llama=[1, "out of memory"])
    row = interleaved("work", peers, ask, 2)
    assert row.rates == {"hyla": [2, 3]} and row.reasons == {"llama": "out of memory"}
    assert row.ratios("llama") is None and row.best() is None and set(peers) == {"hyla", "llama"}
    assert each(scripted(one=[7], other=["no"]), ask) == ({"one": 7}, {"other": "no"})


def test_the_memory_is_read_in_every_round_and_gives_the_share():
    memory = scripted(memory=[1, 100, 200])["memory"]
    row = interleaved("work", scripted(hyla=[1, 4, 10]), ask, 2, memory=memory)
    row.token_bytes = 10
    assert row.bandwidth == [100, 200]
    assert row.share("hyla") == pytest.approx((0.4 + 0.5) / 2) and row.share("llama") is None


def test_a_round_of_tokens_counts_by_its_median_token():
    assert tokens_per_second([9, 9, 0.1, 0.1, 5], 2) == pytest.approx(10)


def test_the_table_has_medians_ratios_goals_and_reasons():
    rows = [
        Row("one", {"hyla": [110.0, 130.0], "llama": [100.0, 100.0]}, {"vllm": "needs AVX-512"}),
        Row("two", {"hyla": [5.0]}, {"vllm": "needs AVX-512", "llama": "no file"}, 2.0, [20.0]),
        Row("three", {"engine": [2.0], "http": [1.9]}, first="http"),
    ]
    asked = {"one": [Goal(1.1, "best"), Goal(1.0, "vllm")], "two": [Goal(0.85, "bandwidth")]}
    assert tables.tables(rows, asked).splitlines() == [
        "| tokens/s | Hyla | llama.cpp | vLLM | share of bandwidth | goal |",
        "| --- | --- | --- | --- | --- | --- |",
        "| one | 120 | 100 (1.20x: 1.10, 1.30) | - |  | 1.1 x llama.cpp: 1.20, met; 1 x vLLM: not measured |",
        "| two | 5.0 | - | - | Hyla 0.50 | 0.85 of the bandwidth: 0.50, short |",
        "",
        "- vLLM (one, two): needs AVX-512",
        "- llama.cpp (two): no file",
        "",
        "| tokens/s | http | engine | goal |",
        "| --- | --- | --- | --- |",
        "| three | 1.9 | 2.0 (0.95x: 0.95, 0.95) |  |",
    ]


def test_every_goal_is_about_a_row_that_a_part_makes(monkeypatch, tmp_path):
    """All parts run with engines that are made up; the rows are those of the goals."""
    monkeypatch.setattr(stage.Run, "worker", lambda self, engine, python: Constant())
    monkeypatch.setattr(Files, "of", lambda self, model, engine: model.name)
    monkeypatch.setattr(Files, "python", lambda self, engine: sys.executable)
    monkeypatch.setattr(parts, "decode_bytes", lambda source, context: 1.0)
    monkeypatch.setattr("hyla.checkpoints.resolve", Path)
    line = json.dumps({"results": {"streamed": {"rates": {"engine": [2.0], "http": [1.9]}}}})
    done = argparse.Namespace(stdout=f"log\n{line}\n", returncode=0)
    monkeypatch.setattr(parts.subprocess, "run", lambda *own, **options: done)
    run = stage.Run(Files(tmp_path, tmp_path), tmp_path, 1, 2, 1, 1.0)
    stage.open_memory(run)
    rows = {row.title: row for row in parts.measured(run, list(command.ENGINES), list(parts.PARTS))}
    assert set(goals.GOALS) <= set(rows) and len(rows) == 7 + 3 + 3 + 8
    assert all(row.rates and not row.reasons for row in rows.values())
    assert all(goals.reached(rows[title], goal) for title, own in goals.GOALS.items() for goal in own)
    assert rows["one stream at 32,768"].notes["llama"] == "came to the depth by copies"


class Constant:
    """Every answer of a worker that works."""

    answers = {  # noqa: RUF012
        **{"load": "1.0", "best": list(range(10)), "prefill": 1.0, "start": 1.0, "batch": 1.0, "read": 1.0},
        **{"decode": [0.5] * 5, "fill": "copies"},
    }

    def ask(self, verb, **arguments):
        return self.answers[verb]

    def wake(self):
        pass

    rest = close = wake


def test_engines_that_choose_other_tokens_are_named(tmp_path):
    run = stage.Run(Files(tmp_path, tmp_path), tmp_path, 1, 1, 1, 1.0)
    ours, near, far = list(range(10)), [9, 1], [10, 1]
    count = stage.CHECKED
    peers = scripted(hyla=[ours] * count, llama=[near] * count, vllm=[far] * count, openvino=["no logits"])
    own = stage.Stage(run, peers)
    own.check("hyla")
    assert list(own.notes) == ["vllm"] and "after 0 of 8" in own.notes["vllm"]
    assert own.reasons == {"openvino": "no logits"} and set(own.peers) == {"hyla", "llama", "vllm"}


def test_an_engine_that_does_not_load_is_a_reason_in_every_row(tmp_path, monkeypatch):
    run = stage.Run(Files(tmp_path, tmp_path / "none"), tmp_path, 1, 1, 1, 1.0)
    loads = [Scripted("hyla", [1, *[[0]] * stage.CHECKED], []), Scripted("vllm", ["unknown architecture"], [])]
    Scripted.awake += ["hyla"]  # it was just started
    monkeypatch.setattr(run, "worker", lambda engine, python: loads.pop(0))
    model = Model("tiny", lambda place: place.mkdir())
    with stage.stage(run, model, ["hyla", "vllm"], length=1, sequences=1) as own:
        row = own.row("work", lambda peer: 1.0)
    assert row.rates == {"hyla": [1.0]} and "not installed" in row.reasons["vllm"]


def test_a_file_is_made_once_and_whole_or_not_at_all(tmp_path):
    made = []

    def write(place):
        made.append(place.name)
        place.mkdir()
        if len(made) == 1:
            raise OSError("disk full")

    files, model = Files(tmp_path, tmp_path), Model("tiny", write)
    with pytest.raises(OSError, match="disk full"):
        files.of(model, "hyla")
    assert files.of(model, "hyla") == files.of(model, "vllm") == str(tmp_path / "tiny")
    assert made == ["unfinished-tiny"] * 2
    with pytest.raises(PeerError, match="no GGUF file"):
        files.of(model, "llama")
    with pytest.raises(PeerError, match="not timed on GGUF"):
        files.of(Model("file", file="x.gguf"), "vllm")


def test_a_tool_that_fails_gives_its_last_line():
    with pytest.raises(PeerError, match=r"fails: .*no such option"):
        models._run([sys.executable, "-c", "raise SystemExit('no such option')"])


def test_a_worker_refuses_what_its_engine_cannot(capsys):
    class Engine:
        def load(self, model):
            raise ValueError(f"no {model}\nand more")

    assert answer(Engine(), '{"verb": "load", "model": "x"}') == {"error": "ValueError: no x"}
    assert answer(Engine(), '{"verb": "batch"}') == {"error": "NotImplementedError: this engine has no way to batch"}
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_starts_where_no_pytorch_is():
    code = "import sys; sys.modules |= dict.fromkeys(('torch', 'hyla')); import bench.peers.worker"
    code += "; import bench.peers.engines.llama, bench.peers.engines.openvino"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_known_names_are_chosen_and_in_their_order():
    read = command.listed(("a", "b", "c"))
    assert read("c,a") == ["a", "c"]
    with pytest.raises(argparse.ArgumentTypeError, match="d: choose among a, b, c"):
        read("a,d")


def test_what_does_not_install_is_said_and_the_others_are_made(tmp_path, monkeypatch):
    def good(python):
        made.append(python)

    def bad(python):
        raise environments.InstallError("no such release")

    made = []
    monkeypatch.setattr(environments, "ENVIRONMENTS", {"one": bad, "other": good})
    monkeypatch.setattr(environments, "_run", lambda command: Path(command[-1]).mkdir(parents=True, exist_ok=True))
    for _ in range(2):  # what is there is not made again; what failed is tried again
        assert environments.install(tmp_path, ["one", "other"]) == {"one": "no such release", "other": None}
    assert made == [str(tmp_path / "other" / "bin" / "python")]


def test_the_stand_in_has_every_submodule_and_attribute(tmp_path, monkeypatch):
    environments.stand_in_for_torchvision(tmp_path)
    before = list(sys.meta_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    try:
        functional = importlib.import_module("torchvision.transforms.v2.functional")
        assert functional.InterpolationMode.NEAREST and functional.resize([1], size=2).shape
        assert importlib.import_module("torchvision").ops
        assert issubclass(type("Own", (functional.Image,), {}), functional.Image.__mro__[1])
    finally:
        sys.meta_path[:] = before
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


def test_hyla_comes_to_a_depth_and_answers_as_its_engine_does(tmp_path):
    """The worker of Hyla itself, on the family's tiny model."""
    import hyla
    from bench.peers.engines.hyla import Hyla
    from hyla.models.families.qwen3_5 import FAMILY
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    config = FAMILY.config_from_hf({**FAMILY.tiny_config, "mtp_num_hidden_layers": 0})
    hyla.save(initialize(Model(config), 0), tmp_path / "model")
    engine = Hyla()
    engine.load(str(tmp_path / "model"), threads=1, length=200, sequences=3)
    best = engine.best([1, 2, 3], 5)
    assert len(set(best)) == 5 and engine.prefill([1, 2, 3]) > 0
    assert engine.start([1, 2, 3]) > 0 and len(engine.decode(4)) == 4
    assert engine.batch([[1, 2], [3, 4], [5, 6]], 4) > 0 and not engine.engine.has_work
    assert engine.fill(130) and min(engine.decode(3)) > 0
    assert engine.best([1, 2, 3], 5) == best
    assert models.decode_bytes(str(tmp_path / "model"), 10) > 0
