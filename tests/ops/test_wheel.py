"""The wheel of `make wheel` on a machine without a compiler."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from native_builds import every_build

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, pathlib, torch, hyla
from hyla.ops import backends, native
from hyla.ops.exact import primitives

primitives.silu(torch.linspace(-3, 3, 50))
maps = pathlib.Path("/proc/self/maps").read_text().split()
print(json.dumps({
    "hyla": hyla.__file__, "backend": backends.on(torch.device("cpu")), "build": native.build_name(),
    "library": native.library()._name, "openmp": sorted({path for path in maps if "libgomp" in path}),
}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not every_build() or sys.platform != "linux", reason="no C compiler, or not Linux"),
]


def test_a_machine_without_a_compiler_computes_with_the_wheel_s_kernels(tmp_path):
    """In a fresh environment whose PATH has no compiler: the shipped build is loaded, nothing is compiled."""
    subprocess.run([sys.executable, str(ROOT / "deploy" / "wheel.py"), "--out", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-manylinux_2_" in wheel.name
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    # PyTorch and the rest, which a real machine installs: by path, so that this environment's hyla is not among them.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {"PATH": str(python.parent), "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(python), "-c", PROGRAM], env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["hyla"].startswith(str(site))
    best = next(candidate for candidate in every_build() if candidate.is_chosen)
    assert (found["backend"], found["build"]) == ("native", best.name)
    assert found["library"].startswith(os.path.join(site, "hyla", "ops", "native", "shipped"))
    assert len(found["openmp"]) == 1 and "torch" in found["openmp"][0], "one OpenMP in the process: PyTorch's"
    assert not (tmp_path / "home" / ".cache" / "hyla").exists()
