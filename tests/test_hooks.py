"""The hook that mends the ends of text files, and that the repository's own files need no mending."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("text_ends", ROOT / ".ci" / "text_ends.py")
text_ends = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(text_ends)
KINDS = {".py", ".md", ".toml", ".yaml", ".c", ".h", ".css", ".js", ".html", ".txt"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("a\n", "a\n"), ("a", "a\n"), ("a \t\n\nb\n\n\n", "a\n\nb\n"), ("a\r\nb\r\n", "a\nb\n"), ("", ""), ("\n\n", "")],
)
def test_ends_are_mended_once(before, after, tmp_path):
    assert text_ends.mended(before) == after and text_ends.mended(after) == after
    file = tmp_path / "file.txt"
    file.write_bytes(before.encode())
    assert text_ends.main([str(file)]) == (before != after)
    assert file.read_bytes() == after.encode() and text_ends.main([str(file)]) == 0


def test_no_file_of_the_repository_needs_mending():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if Path(name).suffix in KINDS and (ROOT / name).exists()]
    texts = {file: file.read_bytes().decode("utf-8") for file in files}
    assert [str(file.relative_to(ROOT)) for file, text in texts.items() if text_ends.mended(text) != text] == []
