"""NEON's build in an emulator beside this processor's own: the same bits from every kernel."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hyla.ops.native import build

CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
KERNELS = ("elementwise", "conv", "gates", "delta", "attention", "attention_grad", "product")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in (CROSS_COMPILER, EMULATOR, "gcc")),
        reason="on Debian: apt install gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
    ),
]


def digest_of(kernel: str, compiler: str, found: build.Build, folder: Path, run=(), flags=()) -> str:
    """What tests/ops/digest.c prints, compiled for a build and run, by an emulator if one is named."""
    sources, program = Path(build.__file__).parent, folder / f"{found.name}-{kernel}"
    names = (f'-DKERNELS="{kernel}.c"', f"-D{kernel.upper()}", f"-I{sources}")
    code = (str(Path(__file__).parent / "digest.c"), str(sources / "team.c"))
    shared = [flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")]
    subprocess.run([compiler, *shared, *found.flags, *flags, *names, *code, "-o", str(program), "-lm"], check=True)
    done = subprocess.run([*run, str(program)], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip()


@pytest.mark.parametrize("kernel", KERNELS)
def test_neon_gives_the_bits_of_this_processor(kernel, tmp_path):
    neon = next(found for found in build.BUILDS if found.name == "neon")
    here = build.candidates()[0]
    expected = digest_of(kernel, "gcc", here, tmp_path)
    assert len(expected) == 16
    assert digest_of(kernel, CROSS_COMPILER, neon, tmp_path, (EMULATOR,), ("-static",)) == expected
