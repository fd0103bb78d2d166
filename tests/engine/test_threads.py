"""How many threads compute: as many as were asked for, and no more than there are processors."""

import os

import pytest
import torch
from tiny_text import tiny_model

from hyla import Engine
from hyla.engine import threads
from hyla.errors import ConfigError


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3")


@pytest.fixture
def asked(monkeypatch):
    """What PyTorch was told; it keeps its own number."""
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    return found


@pytest.fixture
def four_processors(monkeypatch, tmp_path):
    """0 and 2, 1 and 3 share a core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    return tmp_path


def group(folder, path: str, quotas: dict[str, str]):
    """A control group's files: (where groups are, the file that names the process's own)."""
    for name, quota in quotas.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "cpu.max").write_text(quota + "\n")
    own = folder / "own"
    own.write_text(f"4:memory:/elsewhere\n0::{path}\n")
    return folder, own


def test_threads_of_one_core_count_once(four_processors):
    assert threads.usable_cpus() == 4
    assert threads.usable_cores(four_processors) == 2


def test_processors_that_say_nothing_of_their_cores_count_each(four_processors, tmp_path):
    assert threads.usable_cores(tmp_path / "nowhere") == 4


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({}, 8),
        ({"a/b": "max 100000"}, 8),
        ({"a/b": "300000 100000"}, 3),
        ({"a/b": "350000 100000"}, 3),
        ({"a/b": "50000 100000"}, 1),
        ({"a/b": "600000 100000", "a": "200000 100000"}, 2),
        ({".": "250000 50000"}, 5),
        ({"other": "100000 100000"}, 8),
    ],
)
def test_a_control_group_s_share_and_those_around_it_are_the_most(quotas, cores, tmp_path):
    assert threads.quota(8, *group(tmp_path, "/a/b", quotas)) == cores


def test_omp_num_threads_comes_before_the_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads.default_threads() == 7
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.default_threads() <= 4


def test_more_threads_than_processors_are_lowered_and_said(asked, four_processors):
    assert threads.use_threads(None) == [] and asked == []
    most = threads.quota(4)
    (note,) = threads.use_threads(99)
    assert asked == [most] and "99" in note and str(most) in note


def test_an_engine_computes_with_the_threads_of_its_option(model, asked):
    with_one = Engine(model, threads=1, pack=False)
    assert asked == [1]
    assert with_one.facts().threads == torch.get_num_threads()
    Engine(model, pack=False)
    assert asked == [1]


def test_no_threads_at_all_are_refused(model):
    with pytest.raises(ConfigError):
        Engine(model, threads=0)
