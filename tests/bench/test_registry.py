"""`python -m bench`: its names, its shared pieces, and the comparison of two revisions."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from bench import gguf_folder, hyla_names, qwen35_folder, registry, revisions, timing
from bench.__main__ import main

ROOT = Path(__file__).parents[2]


def test_every_module_has_its_place_and_every_benchmark_a_line():
    files = {file.stem for file in (ROOT / "bench").glob("*.py")} - {"__init__", "__main__"}
    files |= {file.parent.name for file in (ROOT / "bench").glob("*/__init__.py")}
    assert files == {*registry.BENCHMARKS, *registry.SHARED}
    assert all(registry.first_line(name).endswith(".") for name in registry.BENCHMARKS)


def test_without_a_name_the_names_are_listed_and_a_wrong_name_is_said(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(registry.BENCHMARKS)
    assert main(["qwen"]) == 2
    assert "no benchmark 'qwen'" in capsys.readouterr().err


@pytest.mark.parametrize("name", registry.BENCHMARKS)
def test_every_benchmark_is_described_by_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and registry.first_line(name) in printed and "--base REVISION" in printed


def test_the_last_line_says_what_where_and_when(capsys):
    assert main(["cost_claims"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["bench"] == "cost_claims" and len(line["results"]) > 25
    assert {"date", "processor", "cores", "load", "python", "torch", "commit", "source"} <= set(line)


def test_ways_take_turns_and_the_first_round_does_not_count():
    ticks, order = iter(range(100)), []
    ways = {name: lambda name=name: order.append(name) for name in ("one", "other")}
    found = timing.alternated(ways, 2, clock=lambda: float(next(ticks)))
    assert order == ["one", "other"] * 3 and found == {"one": [1.0, 1.0], "other": [1.0, 1.0]}
    assert timing.medians(found, 1e3) == {"one": 1000.0, "other": 1000.0}


def test_the_interval_of_a_ratio():
    found = timing.interval([0.5, 1.0, 2.0])
    assert found["ratio"] == pytest.approx(1.0) and found["low"] * found["high"] == pytest.approx(1.0)
    assert found["high"] == pytest.approx(2 ** (4.303 / 3**0.5))


def test_two_processes_compute_in_turn(tmp_path):
    code = (
        "import sys, time; from bench import turns; turns.join()\n"
        "for n in range(3):\n"
        "    open(sys.argv[1], 'a').write(sys.argv[2] + '('); time.sleep(0.02); open(sys.argv[1], 'a').write(')')\n"
        "    turns.take_turn()\n"
    )
    (read_one, write_one), (read_two, write_two) = os.pipe(), os.pipe()
    ends = [("a", read_two, write_one, "first"), ("b", read_one, write_two, "second")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "order"), name],
            cwd=ROOT,
            env=os.environ | {"BENCH_TURNS": f"{reading} {writing} {place}"},
            pass_fds=(reading, writing),
        )
        for name, reading, writing, place in ends
    ]
    for descriptor in (read_one, write_one, read_two, write_two):
        os.close(descriptor)
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "order").read_text() == "a()b()" * 3


def test_two_revisions_are_compared_by_the_ratio_of_their_medians():
    base = [{"seconds": {"step": [2.0, 4.0, 4.0]}}, {"seconds": {"step": [4.0, 4.0, 8.0]}}]
    here = [{"seconds": {"step": [2.0, 2.0, 2.0]}}, {"seconds": {"step": [1.0, 2.0, 4.0]}}]
    (row,) = revisions.compared(base, here).values()
    assert (row["ratio"], row["low"], row["high"], row["paired_ratio"], row["ratio_of_least"]) == (2, 2, 2, 2, 2)
    assert "| step | 4000.00 | 2000.00 | 2.000 [2.000, 2.000] |" in revisions.table({"step": row})


def test_both_trees_of_a_comparison_are_measured(tmp_path, monkeypatch):
    """Two trees that differ in one number; the benchmark is the one of the working tree."""
    trees = []
    for name in ("one", "other"):
        package = tmp_path / name / "src" / "hyla"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"NAME = {name!r}\n")
        trees.append(tmp_path / name)
    code = (
        "import hyla, json; print(json.dumps({'source': hyla.__file__[:-17], 'seconds': {'x': [1.0]}, 'n': hyla.NAME}))"
    )
    monkeypatch.setattr(revisions, "ROOT", tmp_path)
    found = revisions.run_pair(trees, [sys.executable, "-c", code], tmp_path)
    assert [line["n"] for line in found] == ["one", "other"]
    with pytest.raises(SystemExit, match="no times"):
        revisions.run_pair(trees, [sys.executable, "-c", code.replace("[1.0]", "").replace("'x': ", "")], tmp_path)
    with pytest.raises(SystemExit, match="ended with 3"):
        revisions.run_pair(trees, [sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_names_are_found_wherever_they_are_defined():
    from hyla.caches import Cache
    from hyla.ops.batch import Batch

    assert hyla_names.cache_class() is Cache and hyla_names.find("Batch") is Batch
    with pytest.raises(ImportError, match="Nothing"):
        hyla_names.find("Nothing")


def test_the_written_model_is_one_of_its_family(monkeypatch):
    from hyla.models.families.qwen3_5 import FAMILY

    config = FAMILY.config_from_hf(qwen35_folder.CONFIG)
    assert (config.vocab_size, config.hidden_dim, len(config.mixers)) == (32768, 1024, 24)
    monkeypatch.setattr("torch.randn", lambda *shape, generator: __import__("torch").empty(*shape))
    names = [gguf_folder.gguf_name(name) for name, _ in qwen35_folder.tensors()]
    assert len(names) == len(set(names)) == 2 + 18 * 14 + 6 * 11
    assert gguf_folder.metadata(qwen35_folder.CONFIG)["qwen35.full_attention_interval"] == 4


def test_decoding_of_the_shape_is_checked_before_it_is_timed(tmp_path, tiny_shape):
    from bench import qwen35_shape

    options = Namespace(cpu_time=False, context=20, steps=4, figures=qwen35_shape.FIGURES)
    found = qwen35_shape.run_hyla(str(tiny_shape), "float32", options)
    assert set(found["seconds"]) == {"prefill", "decode_1", "decode_16"} and len(found["digest"]) == 16
    assert found["digest"] == qwen35_shape.run_hyla(str(tiny_shape), "float32", options)["digest"]


@pytest.fixture
def tiny_shape(tmp_path, monkeypatch):
    """The family's tiny model with the vocabulary that the prompts use."""
    import hyla
    from hyla.models.families.qwen3_5 import FAMILY
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    config = FAMILY.config_from_hf({**FAMILY.tiny_config, "mtp_num_hidden_layers": 0})
    monkeypatch.setattr("bench.qwen35_shape.VOCABULARY", config.vocab_size)
    hyla.save(initialize(Model(config), 0), tmp_path / "model")
    return tmp_path / "model"
