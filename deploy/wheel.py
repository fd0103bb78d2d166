"""A wheel with the CPU's kernels inside, for machines without a compiler: python deploy/wheel.py [--out dist]

All builds for this machine's architecture are compiled into a copy of the sources; the wheel's tag says which C library
they need at least. It installs anywhere that has it, whatever the processor: the build is chosen there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("pyproject.toml", "README.md", "LICENSE", "src")
LEFT = shutil.ignore_patterns("__pycache__", "*.egg-info", "shipped")
GLIBC = re.compile(rb"\bGLIBC_2\.(\d+)\b")
OLDEST_GLIBC = 17
"""2.17 is the oldest that PyTorch's own wheels ask for."""


def compile_all(folder: Path) -> list[Path]:
    """Every build for this architecture that is chosen unasked, in folder."""
    from hyla.ops.native import build

    wanted = [found for found in build.BUILDS if found.machine == build.machine() and found.is_chosen]
    files = []
    for found in wanted:
        file = folder / build.file_name(found)
        print(f"compiling {file.name}", flush=True)
        build.compile_to(file, found, build.find_compiler())
        files.append(file)
    return files


def platform_tag(files: list[Path]) -> str:
    """As pip compares it: "manylinux_2_17_x86_64", by the newest version of the C library that a file names."""
    from hyla.ops.native.build import machine

    named = [int(minor) for file in files for minor in GLIBC.findall(file.read_bytes())]
    return f"manylinux_2_{max([OLDEST_GLIBC, *named])}_{machine()}"


def build_wheel(out: Path) -> Path:
    """The wheel's file, in out."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            place = ROOT / name
            shutil.copytree(place, copy / name, ignore=LEFT) if place.is_dir() else shutil.copy2(place, copy / name)
        files = compile_all(copy / "src" / "hyla" / "ops" / "native" / "shipped")
        tag = platform_tag(files)
        option = f"--config-settings=--build-option=--plat-name={tag}"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
        subprocess.run([*pip, option, "--wheel-dir", str(out), str(copy)], check=True)
    found = max(out.glob(f"hyla-*-{tag}.whl"), key=lambda file: file.stat().st_mtime)
    print(found)
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for the wheel; default: dist")
    build_wheel(parser.parse_args(arguments).out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
