"""One source, several builds: the same bits from each, whatever the processor's vectors."""

import pytest
import torch
from native_builds import KERNELS, bits, compiled, every_build, library

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends, native
from hyla.ops.native import build, kernels

BUILDS = every_build()
needs_builds = pytest.mark.skipif(len(BUILDS) < 2, reason="no C compiler, or one build only")


@pytest.fixture
def use_build(monkeypatch):
    """Give the kernels of one build to whoever asks."""

    def use(wanted):
        found = library(compiled(wanted))
        for module in (native, kernels):
            monkeypatch.setattr(module, "library", lambda: found)

    backends.use("native")
    yield use
    backends.use("auto")


@needs_builds
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_build_gives_the_same_bits(kernel, use_build):
    plain = BUILDS[-1]
    assert plain.name == "plain"
    use_build(plain)
    expected = [bits(x) for x in KERNELS[kernel]()]
    for other in BUILDS[:-1]:
        use_build(other)
        got = [bits(x) for x in KERNELS[kernel]()]
        different = [n for n, (x, y) in enumerate(zip(got, expected, strict=True)) if not torch.equal(x, y)]
        assert different == [], f"{other.name}: outputs {different} of {len(got)}"
