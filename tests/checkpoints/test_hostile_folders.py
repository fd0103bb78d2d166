"""Folders that lie, from seeds: every one loads and generates, or is one error that names its file or its key."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import pytest
from hostile import BASES, ESCAPE, make_bases, make_hostile, put

import hyla
from hyla.checkpoints import load_model, load_tokenizer, open_checkpoint, read_config
from hyla.checkpoints.index import INDEX_FILE
from hyla.cli.inspect import _report
from hyla.cost.target import find_target
from hyla.errors import CheckpointError, ConfigError, HylaError, RequestError
from hyla.server.cards import served_card
from hyla.server.config import read_toml as read_server_toml

MOST_SECONDS = 300
"""Against hanging, not a measurement: a folder takes a fraction of a second."""
MOST_KIB = 150 * 1024
"""What one folder may add to the most memory that was ever in use."""
NAMED = ("config.json", ".safetensors", "tokenizer", "chat_template", "adapter", "chat templates", "messages")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return make_bases(tmp_path_factory.mktemp("bases"), ("qwen3_5_moe", "kimi_linear"))


@pytest.fixture(scope="module")
def all_bases(tmp_path_factory):
    return make_bases(tmp_path_factory.mktemp("bases"), BASES)


@pytest.fixture
def folder(bases, tmp_path):
    return shutil.copytree(bases[1], tmp_path / "m")


@contextmanager
def bounded():
    """A hang becomes a failure."""

    def ring(*_):
        raise AssertionError(f"{MOST_SECONDS} s have passed")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def generate(folder):
    """Two tokens, and a conversation where there is a template for it."""
    engine = hyla.Engine(str(folder), max_num_sequences=1, memory=4 << 20)
    try:
        prompt = engine.tokenizer.encode("ab") if engine.tokenizer is not None else [1, 2]
        events = list(engine.stream(prompt or [1], hyla.SamplingParams(max_tokens=2, temperature=0)))
        assert events[-1].finish_reason is not None
        if engine.tokenizer is not None and engine.tokenizer.chat_template is not None:
            engine.tokenizer.render_chat([{"role": "user", "content": "x"}])
    finally:
        engine.close()


VERBS = {
    "generate": generate,
    "inspect": lambda folder: _report(str(folder), None, "cpu"),
    "cost": lambda folder: find_target(str(folder)),
    "serve": lambda folder: served_card(open_checkpoint(folder)),
}


def run(bases, root, seeds, verbs):
    """Try verbs on the folder of each seed; the number of each outcome."""
    seen = Counter()
    logging.getLogger("hyla").setLevel(logging.CRITICAL)
    try:
        for seed in seeds:
            folder = root / f"f{seed}"
            what = make_hostile(seed, bases, folder)
            for verb in verbs:
                seen[verb, _outcome(VERBS[verb], folder, f"seed {seed}: {what}: {verb}")] += 1
            shutil.rmtree(folder)
    finally:
        logging.getLogger("hyla").setLevel(logging.NOTSET)
    return seen


def _outcome(do, folder, place):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with bounded():
            do(folder)
        outcome = "works"
    except HylaError as error:
        assert str(folder) in str(error) or any(name in str(error) for name in NAMED), f"{place}: {error}"
        assert len(str(error)) > 20, f"{place}: {error}"
        outcome = "is refused"
    except BaseException as error:
        raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert added < MOST_KIB, f"{place}: {added:,} KiB"
    return outcome


def test_forty_hostile_folders(bases, tmp_path):
    seen = run(bases, tmp_path, range(40), ("generate",))
    assert seen["generate", "works"] > 3 and seen["generate", "is refused"] > 10


@pytest.mark.slow
def test_a_thousand_hostile_folders_in_every_verb(all_bases, tmp_path):
    print(dict(run(all_bases, tmp_path, range(1000), VERBS)))


@pytest.mark.slow
def test_the_command_line_ends_hostile_folders_in_one_line(all_bases, tmp_path):
    """Whole processes, as people start them: status 0 or 1, one line of error, no traceback, nothing that commands."""
    for seed in range(2000, 2040):
        what = make_hostile(seed, all_bases, tmp_path / f"f{seed}")
        verb = (("inspect",), ("cost",), ("generate", "ab"))[seed % 3]
        command = [sys.executable, "-m", "hyla.cli", verb[0], str(tmp_path / f"f{seed}"), *verb[1:]]
        options = ["--max-tokens", "2"] if verb[0] == "generate" else []
        ended = subprocess.run([*command, *options], capture_output=True, timeout=120, check=False)
        errors = ended.stderr.decode("utf-8", "surrogateescape")
        assert ended.returncode in (0, 1), f"seed {seed}: {what}: {verb}: {ended.returncode}: {errors[-3000:]}"
        assert "Traceback" not in errors and "\x1b" not in errors, f"seed {seed}: {what}: {verb}: {errors[-3000:]}"
        assert ended.returncode == 0 or errors.splitlines()[-1].startswith("error: "), errors


SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json")
FILES = (*SETTINGS, "tokenizer.json", "chat_template.jinja", INDEX_FILE)


def open_all(folder):
    read_config(folder)
    load_tokenizer(folder)
    load_model(folder)


@pytest.mark.parametrize("name", (*FILES, "model-00001-of-00019.safetensors"))
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "nowhere", "endless"])
def test_what_is_no_file_is_refused_by_name_and_at_once(folder, name, kind):
    (name,) = [file.name for file in folder.glob(name.replace("19", "*"))]
    (folder / name).unlink()
    if kind == "folder":
        (folder / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        of = {"device": "/dev/null", "loop": name, "nowhere": "absent", "endless": "/dev/zero"}[kind]
        (folder / name).symlink_to(of)
    with bounded(), pytest.raises(CheckpointError, match=name) as caught:
        open_all(folder)
    said = {"folder": "is a folder, not a file", "pipe": "is a pipe, not a file", "device": "is a device, not a file"}
    assert said.get(kind, "") in str(caught.value)


@pytest.mark.parametrize("name", FILES[:5])
def test_huge_files_are_refused_by_their_size(folder, name):
    (folder / name).unlink()
    with (folder / name).open("wb") as opened:
        opened.truncate(40 << 30)  # no block of it is used
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: it is larger than [\d,]+ bytes"):
        open_all(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 * 1024


@pytest.mark.parametrize("name", [*SETTINGS, INDEX_FILE])
@pytest.mark.parametrize(
    "text, reason",
    [
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of thousands of digits"),
        (b"[" * 100_000, "too deep in one another"),
        (b'{"a":' * 100_000, "too deep in one another"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b"", "Expecting value"),
        (b"[1]", "holds a JSON list"),
    ],
)
def test_what_is_no_json_is_refused_with_the_reason(folder, name, text, reason):
    put(folder / name, text)
    with pytest.raises(CheckpointError, match=rf"{name}.*{reason}"):
        open_all(folder)


def test_a_byte_order_mark_is_read_over(folder):
    for name in FILES:
        put(folder / name, b"\xef\xbb\xbf" + (folder / name).read_bytes())
    open_all(folder)
    assert not load_tokenizer(folder).chat_template.source.startswith("\ufeff")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta", "initializer_range"])
def test_a_number_that_is_none_is_refused_by_its_key(bases, tmp_path, key, number):
    folder = shutil.copytree(bases[0], tmp_path / "m")
    file = folder / "config.json"
    keys = json.loads(file.read_text())
    keys.pop("rope_parameters", None)
    put(file, json.dumps({**keys, key: "HERE"}).replace('"HERE"', number).encode())
    with pytest.raises(ConfigError, match=rf"m/config\.json: .*(theta|{key})"):
        read_config(folder)


def test_every_error_about_a_config_names_its_file(folder):
    file = folder / "config.json"
    keys = json.loads(file.read_text())
    for change in ({"model_type": "x"}, {"another": 1}, {"hidden_size": "x"}, {"quantization_config": 7}):
        put(file, json.dumps({**keys, **change}).encode())
        with pytest.raises(HylaError, match=r"m/config\.json: "):
            read_config(folder)
        if "quantization_config" not in change:
            with pytest.raises(HylaError, match=r"m/config\.json: "):
                find_target(str(folder))


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{% if x %}" * 2000 + "{% endif %}" * 2000,
    ],
)
def test_a_template_that_python_cannot_compile_is_refused(folder, template):
    put(folder / "chat_template.jinja", template.encode())
    with pytest.raises(CheckpointError, match=r"the chat template of .*m is not a valid Jinja template"):
        load_tokenizer(folder)


def test_a_link_to_nowhere_is_a_broken_file_and_not_a_missing_one(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("absent")
    assert open_checkpoint(folder).has_tokenizer
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read: No such file"):
        hyla.Engine(str(folder))


@pytest.mark.parametrize("name", ["x" * 300, "a\x00b", ESCAPE, "y" * 100_000])
def test_names_in_an_index_may_be_anything(folder, name):
    put(folder / INDEX_FILE, json.dumps({"weight_map": {"a": name}}).encode())
    with pytest.raises(CheckpointError, match="names 1 missing shards") as caught:
        load_model(folder)
    assert len(str(caught.value)) < 1000


def test_a_file_of_settings_that_is_no_toml_is_refused(tmp_path):
    from hyla.cli.config_file import read_toml

    for text in ("a = " + "[" * 100_000, "a = " + "9" * 5000, "a = \udcff"):
        (tmp_path / "c.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
        for read in (read_toml, read_server_toml):
            with pytest.raises(ConfigError, match=r"c\.toml"):
                read(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)


def test_a_template_that_fails_while_it_renders_is_the_request_s_error(folder):
    put(folder / "chat_template.jinja", b"{{ 1 / 0 }}")
    with pytest.raises(RequestError, match="chat template fails"):
        load_tokenizer(folder).render_chat([{"role": "user", "content": "x"}])


def test_an_error_is_short_however_long_what_it_names_is(folder):
    file = folder / "config.json"
    keys = json.loads(file.read_text())
    for change in ({"a" * 10**6: 1}, {"rms_norm_eps": [0] * 10**5}, {"model_type": "x" * 10**6}):
        put(file, json.dumps({**keys, **change}).encode())
        with pytest.raises(HylaError, match=r"m/config\.json: ") as caught:
            read_config(folder)
        assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("kind", ["pipe", "folder", "endless"])
def test_a_gguf_that_is_no_file_is_refused_at_once(tmp_path, kind):
    file = tmp_path / "m.gguf"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    with bounded(), pytest.raises(CheckpointError, match=r"m\.gguf"):
        read_config(file)
