"""Mend the ends of text files: no blanks before a line break, exactly one line break at the end of a file.

python .ci/text_ends.py FILE ...: mends them in place, names those that it changed, and exits 1 if there were any.
"""

from __future__ import annotations

import sys
from pathlib import Path


def mended(text: str) -> str:
    """Line breaks become plain ones; an empty file stays empty."""
    lines = [line.rstrip(" \t\r") for line in text.split("\n")]
    whole = "\n".join(lines).rstrip("\n")
    return whole + "\n" if whole else ""


def mend(file: Path) -> bool:
    """Whether the file changed."""
    before = file.read_bytes()
    after = mended(before.decode("utf-8")).encode("utf-8")
    if after != before:
        file.write_bytes(after)
    return after != before


def main(names: list[str]) -> int:
    changed = [name for name in names if mend(Path(name))]
    for name in changed:
        print(f"mended {name}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
