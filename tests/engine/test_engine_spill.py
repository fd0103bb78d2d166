"""A restarted engine with a spill folder goes on bit for bit where the stopped one was; whatever is wrong is a miss."""

import errno
import logging
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_text import tiny_model

from hyla.caches import spill_file, spill_store
from hyla.engine import Administration, Engine, SamplingParams
from hyla.engine.hosting.thread import EngineThread
from hyla.errors import ConfigError
from hyla.models.state import cast

MEMORY = 32 << 20
CASES = [
    ("kimi_linear", "float32", "off"),
    ("qwen3_next", "float32", "off"),
    ("mimo_v2_flash", "float32", "off"),
    ("nemotron_h", "float32", "off"),
    ("bailing_hybrid", "float32", "off"),
    ("qwen3_next", "bfloat16", "off"),
    ("deepseek_v32", "float32", "off"),
    ("kimi_linear", "float32", "lookup"),
    ("mimo_v2_flash", "float32", "mtp"),
]


def tokens(length, seed):
    draw = random.Random(seed)
    return [draw.randrange(97) for _ in range(length)]


def params(max_tokens=2, **fields):
    return SamplingParams(max_tokens=max_tokens, temperature=0.9, seed=5, logprobs=2, ignore_eos=True, **fields)


def answer(completion):
    return completion.token_ids, completion.logprobs, completion.finish_reason


def make(model, folder, **options):
    options = {"memory": MEMORY, "max_num_sequences": 3, "spill_min_tokens": 64, **options}
    return Engine(model, spill_folder=folder, **options)


def files(folder):
    return sorted(folder.glob(f"*{spill_file.SUFFIX}"))


def read_once(engine, prompt, **fields):
    (done,) = engine.generate(prompt, params(**fields))
    engine.cache.ledger.check()
    return done


def filled(folder, name="kimi_linear", length=200, **options):
    """A closed engine's folder and the prompt that it read."""
    engine, prompt = make(tiny_model(name), folder, **options), tokens(length, 1)
    read_once(engine, prompt)
    engine.close()
    return prompt


@pytest.mark.parametrize(("name", "dtype", "speculation"), CASES)
def test_a_restarted_engine_answers_as_one_that_never_stopped(tmp_path, name, dtype, speculation):
    model = cast(tiny_model(name), getattr(torch, dtype))
    options = {"speculation": speculation, "fixed_drafts": True, "max_draft_tokens": 3}
    whole = Engine(model, memory=MEMORY, max_num_sequences=3, **options)
    first = read_once(whole, tokens(181, 1), max_tokens=20)
    longer = [*tokens(181, 1), *first.token_ids, *tokens(5, 2)]
    expected = read_once(whole, longer, max_tokens=40)
    stopped = make(model, tmp_path, **options)
    assert answer(read_once(stopped, tokens(181, 1), max_tokens=20)) == answer(first)
    stopped.close()
    assert stopped.status()["spill"]["spilled"] >= 1
    restarted = make(model, tmp_path, **options)
    found = read_once(restarted, longer, max_tokens=40)
    assert answer(found) == answer(expected)
    assert found.usage.cached_tokens == expected.usage.cached_tokens == 192 and found.usage.miss_reason is None
    status = restarted.status()["spill"]
    assert status["loaded"] == 1 and status["refused"] == {}


def test_what_is_evicted_comes_back_from_the_disk(tmp_path):
    model = tiny_model("mimo_v2_flash")
    roomy = Engine(model, memory=MEMORY, max_num_sequences=1)
    engine = make(model, tmp_path, memory=roomy.cache.nbytes // 8, max_num_sequences=1)
    prompts = [tokens(200, seed) for seed in range(5)] * 2
    found = [read_once(engine, prompt, max_tokens=2) for prompt in prompts[:5]]
    engine.spill.store.flush()  # the writer's thread may be behind on a busy machine
    found += [read_once(engine, prompt, max_tokens=2) for prompt in prompts[5:]]
    assert [answer(one) for one in found] == [answer(read_once(roomy, prompt, max_tokens=2)) for prompt in prompts]
    engine.spill.store.flush()
    status = engine.status()["spill"]
    assert status["loaded"] > 0 and status["spilled"] > 0
    assert any(one.usage.cached_tokens for one in found[5:])


def test_a_model_without_states_takes_up_any_page_of_what_was_spilled(tmp_path):
    prompt = filled(tmp_path, "deepseek_v32", length=300)
    assert len(files(tmp_path)) == 1
    engine = make(tiny_model("deepseek_v32"), tmp_path)
    shorter = [*prompt[:150], *tokens(30, 9)]
    found = read_once(engine, shorter)
    assert found.usage.cached_tokens == 128
    assert answer(found) == answer(read_once(Engine(tiny_model("deepseek_v32"), memory=MEMORY), shorter))


def test_another_tenant_gets_nothing_and_the_salt_is_not_stored(tmp_path):
    from hyla.engine import Request

    def read(engine, salt):
        engine.add(Request("r", tuple(tokens(200, 1)), params(max_tokens=1), cache_salt=salt))
        while engine.scheduler.has_work:
            events = engine.step()
        return events[-1].usage.cached_tokens

    engine = make(tiny_model(), tmp_path)
    read(engine, "secret salt")
    engine.close()
    assert all(b"secret salt" not in file.read_bytes() for file in files(tmp_path))
    restarted = make(tiny_model(), tmp_path)
    assert read(restarted, "other salt") == 0 and read(restarted, "") == 0
    assert read(restarted, "secret salt") == 192


def test_a_segment_has_only_the_pages_that_the_folder_lacks_and_needs_the_others(tmp_path):
    engine, prompt = make(tiny_model(), tmp_path), tokens(200, 1)
    read_once(engine, prompt)
    engine.spill_now()
    longer = [*prompt, *tokens(200, 2)]
    read_once(engine, longer)
    engine.close()
    engine.close()
    assert len(files(tmp_path)) == 2
    restarted = make(tiny_model(), tmp_path)
    segments = sorted((s for s in restarted.spill.store._index.values()), key=lambda s: s.first)
    assert [(segment.first, segment.end) for segment in segments] == [(0, 3), (3, 6)]
    assert read_once(restarted, longer).usage.cached_tokens == 384
    (tmp_path / segments[0].name).unlink()
    orphaned = make(tiny_model(), tmp_path)
    assert read_once(orphaned, longer).usage.cached_tokens == 0
    assert orphaned.status()["spill"]["refused"] == {"missing_parent": 1}


def test_short_prefixes_are_not_worth_a_file(tmp_path):
    filled(tmp_path, length=200, spill_min_tokens=256)
    assert files(tmp_path) == []
    filled(tmp_path, length=300, spill_min_tokens=256)
    assert len(files(tmp_path)) == 1


def damaged(name, blob):
    if name == "truncated":
        return blob[:-100]
    if name == "header":
        return blob[:20] + b"\xff" + blob[21:]
    if name == "empty":
        return b""
    if name == "pickle":
        return b"\x80\x04" + blob[2:]
    place = len(blob) - 1000 if name == "data" else blob.index(b'"salt":"') + len(b'"salt":"')
    return blob[:place] + (b"0" if blob[place : place + 1] != b"0" else b"1") + blob[place + 1 :]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", "truncated"),
        ("empty", "truncated"),
        ("pickle", "unreadable"),
        ("header", "unreadable"),
        ("data", "checksum"),
        ("salt", "checksum"),
    ],
)
@pytest.mark.parametrize("is_running", [False, True])
def test_a_damaged_file_is_refused_said_once_and_replaced_later(tmp_path, caplog, name, reason, is_running):
    prompt = filled(tmp_path)
    engine = make(tiny_model(), tmp_path)
    (file,) = files(tmp_path)
    file.write_bytes(damaged(name, file.read_bytes()))
    if not is_running:
        engine = make(tiny_model(), tmp_path)
    elif name == "salt":
        reason = "renamed"  # another segment than its header said
    found = read_once(engine, prompt)
    assert found.usage.cached_tokens == 0 and found.usage.miss_reason == "no_prefix"
    assert engine.status()["spill"]["refused"] == {reason: 1}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert file.name in caplog.text and "is not loaded" in caplog.text
    read_once(engine, prompt)
    assert len(caplog.records) == 1
    engine.close()
    assert read_once(make(tiny_model(), tmp_path), prompt).usage.cached_tokens == 192


@pytest.mark.parametrize("what", ["weights", "num_threads", "numerics", "snapshot_dtype", "torch", "layers"])
def test_a_foreign_file_is_refused_with_what_differs(tmp_path, monkeypatch, what):
    prompt = filled(tmp_path)
    model, options = tiny_model(), {}
    if what == "weights":
        model = tiny_model(seed=4)
    elif what == "num_threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif what == "numerics":
        options = {"numerics": "fast"}
    elif what == "snapshot_dtype":
        options = {"snapshot_dtype": "int8"}
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    else:
        model = tiny_model("qwen3_next")
    engine = make(model, tmp_path, **options)
    assert engine.status()["spill"]["refused"] == {f"other {what}": 1}
    assert read_once(engine, prompt).usage.cached_tokens == 0
    before = files(tmp_path)
    engine.close()
    assert len(files(tmp_path)) == len(before) + 1


def test_new_weights_make_what_was_spilled_unusable_and_the_old_ones_usable_again(tmp_path):
    import hyla

    hyla.save(tiny_model(seed=4), tmp_path / "new")
    hyla.save(tiny_model(), tmp_path / "old")
    folder, prompt = tmp_path / "spill", tokens(200, 1)
    engine = make(tiny_model(), folder)
    administration = Administration(engine)
    expected = answer(read_once(engine, prompt))
    engine.spill_now()
    for weights, cached in (("new", 0), ("old", 192)):
        administration.pause("keep")
        administration.update_weights(tmp_path / weights)
        administration.resume()
        found = read_once(engine, prompt)
        assert found.usage.cached_tokens == cached
        assert (answer(found) == expected) == bool(cached)
    assert engine.status()["spill"]["refused"] == {"other weights": 1}


def test_sleeping_keeps_prefixes_on_the_disk(tmp_path):
    engine, prompt = make(tiny_model(), tmp_path), tokens(200, 1)
    expected = answer(read_once(engine, prompt))
    administration = Administration(engine)
    administration.pause()
    administration.sleep()
    administration.wake()
    administration.resume()
    found = read_once(engine, prompt)
    assert answer(found) == expected and found.usage.cached_tokens == 192


def test_stopping_the_thread_leaves_prefixes_to_the_next_engine(tmp_path):
    engine, prompt = make(tiny_model(), tmp_path), tokens(200, 1)
    read_once(engine, prompt)
    thread = EngineThread(engine)
    thread.start()
    thread.stop()
    assert read_once(make(tiny_model(), tmp_path), prompt).usage.cached_tokens == 192


@pytest.mark.parametrize("function", ["write_whole", "encode"])
def test_a_full_disk_costs_only_the_entry(tmp_path, caplog, monkeypatch, function):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = tiny_model()
    engine, prompt = make(model, tmp_path), tokens(200, 1)
    monkeypatch.setattr(spill_store, function, fail)
    expected = answer(read_once(engine, prompt))
    engine.spill_now()
    assert engine.status()["spill"]["failed"] == 1 and engine.status()["spill"].get("spilled", 0) == 0
    assert len(caplog.records) == 1 and "No space left" in caplog.text
    assert answer(read_once(engine, prompt)) == expected
    monkeypatch.undo()
    engine.spill_now()
    assert engine.status()["spill"]["spilled"] == 1 and len(files(tmp_path)) == 1


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spill_file.os, "fsync", fail)
    filled(tmp_path)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys, time
sys.path[:0] = [{tests!r}]
from hyla.caches import spill_file
from test_engine_spill import filled
def wait(_):
    print("writing", flush=True)
    time.sleep(60)
spill_file.os.fsync = wait
filled(__import__("pathlib").Path({folder!r}))
"""


def test_a_kill_while_spilling_leaves_only_what_the_next_start_removes(tmp_path):
    whole = filled(tmp_path / "whole")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        (partial,) = tmp_path.glob(f"{spill_file.PARTIAL}*")
        # Its writer lives: another engine leaves it alone.
        assert make(tiny_model(), tmp_path).status()["spill"]["leftovers"] == 0
        process.send_signal(signal.SIGKILL)
    assert partial.stat().st_size == files(tmp_path / "whole")[0].stat().st_size
    engine = make(tiny_model(), tmp_path)
    assert engine.status()["spill"]["leftovers"] == 1 and list(tmp_path.iterdir()) == [tmp_path / "whole"]
    assert read_once(engine, whole).usage.cached_tokens == 0


def test_the_least_recently_used_go_first_and_a_parent_outlives_its_children(tmp_path):
    prompts = [tokens(200, seed) for seed in range(4)]
    one = make(tiny_model(), tmp_path / "one")
    read_once(one, prompts[0])
    one.close()
    size = files(tmp_path / "one")[0].stat().st_size
    folder = tmp_path / "spill"
    engine = make(tiny_model(), folder, spill_bytes=int(size * 3.1))
    for prompt in prompts[:3]:
        read_once(engine, prompt)
        engine.spill_now()
    order = sorted(files(folder), key=lambda file: file.stat().st_mtime_ns)
    restarted = make(tiny_model(), folder, spill_bytes=int(size * 3.1))
    assert read_once(restarted, prompts[0]).usage.cached_tokens == 192
    read_once(restarted, [*prompts[0], *tokens(70, 9)])
    restarted.close()
    left = files(folder)
    assert order[0] in left and order[1] not in left and order[2] in left and len(left) == 3
    assert restarted.status()["spill"]["removed"] == 1
    assert sum(file.stat().st_size for file in left) <= size * 3.1
    small = make(tiny_model(), tmp_path / "small", spill_bytes=size - 1)
    read_once(small, prompts[0])
    small.close()
    assert small.status()["spill"]["too_large"] == 1 and files(tmp_path / "small") == []


def test_two_engines_share_a_folder(tmp_path):
    one, two = make(tiny_model(), tmp_path), make(tiny_model(), tmp_path)
    prompt = tokens(200, 1)
    expected = [answer(read_once(engine, prompt)) for engine in (one, two)]
    one.close()
    two.close()
    assert len(files(tmp_path)) == 1 and expected[0] == expected[1]
    three = make(tiny_model(), tmp_path)
    files(tmp_path)[0].unlink()  # as an engine with less room would
    assert read_once(three, prompt).usage.cached_tokens == 0
    assert three.status()["spill"]["refused"] == {"gone": 1}
    three.close()
    assert read_once(make(tiny_model(), tmp_path), prompt).usage.cached_tokens == 192


def test_equal_digests_of_other_tokens_give_no_state(tmp_path, monkeypatch):
    from hyla.caches import digests, tree

    same = lambda before, page: bytes(31) + bytes([before[-1] + 1])  # noqa: E731
    monkeypatch.setattr(digests, "page_digest", same)
    monkeypatch.setattr(tree, "page_digest", same)
    filled(tmp_path)
    engine = make(tiny_model(), tmp_path)
    assert read_once(engine, tokens(200, 2)).usage.cached_tokens == 0
    assert engine.status()["spill"]["refused"] == {"other_tokens": 1}


def test_a_writer_that_is_behind_drops_what_comes_and_never_blocks(tmp_path, monkeypatch):
    import threading

    gate = threading.Event()
    real = spill_store.write_whole
    monkeypatch.setattr(spill_store, "write_whole", lambda *arguments: (gate.wait(30), real(*arguments)))
    monkeypatch.setattr(spill_store, "MOST_PENDING_BYTES", 1)
    engine = make(tiny_model(), tmp_path)
    for seed in range(3):
        read_once(engine, tokens(200, seed))
    assert engine.prefix.make_room(engine.cache.ledger.pages.total)
    assert engine.status()["spill"]["dropped"] == 2 and engine.status()["spill"]["pending"] == 1
    gate.set()
    engine.close()
    assert len(files(tmp_path)) == 1


def test_a_checkpoint_that_does_not_fit_stays_on_the_disk(tmp_path):
    prompt = filled(tmp_path, "mimo_v2_flash", length=400)
    engine = make(tiny_model("mimo_v2_flash"), tmp_path)
    units = engine.cache.ledger.pages
    taken = units.take(units.total - 3)
    hit = engine.prefix.lookup(prompt)
    assert hit.length == 0 and engine.status()["spill"]["no_room"] == 1
    units.give_back(taken)
    assert engine.prefix.lookup(prompt).length == 384
    engine.cache.ledger.check()


def test_a_spill_folder_that_cannot_be_used_is_an_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be used"):
        make(tiny_model(), tmp_path / "file")
    with pytest.raises(ConfigError, match="spill_folder needs prefix_cache"):
        make(tiny_model(), tmp_path, prefix_cache=False)
