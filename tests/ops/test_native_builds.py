"""One source, several builds: the same bits from each, and which one runs where."""

import pytest
import torch
from native_builds import KERNELS, bits, compiled, every_build, library

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends, native
from hyla.ops.native import build, launching, products

BUILDS = every_build()
NAMES = [found.name for found in build.BUILDS]
needs_builds = pytest.mark.skipif(len(BUILDS) < 2, reason="no C compiler, or one build only")

SKYLAKE = "fpu sse2 avx avx2 fma f16c bmi1 bmi2 avx512f avx512cd avx512bw avx512dq avx512vl"
PROCESSORS = {
    "a Zen 4 or a Sapphire Rapids": ("x86_64", SKYLAKE + " avx512_bf16 avx512vbmi avx512_vnni", "avx512_bf16"),
    "a Skylake server": ("x86_64", SKYLAKE, "avx512"),
    "a Cooper Lake, which has bf16 without VBMI": ("x86_64", SKYLAKE + " avx512_bf16", "avx512"),
    "an Alder Lake laptop": ("x86_64", "fpu sse2 avx avx2 fma f16c bmi1 bmi2 avx_vnni", "avx2"),
    "a machine whose hypervisor hides AVX-512VL": ("x86_64", SKYLAKE.replace(" avx512vl", ""), "avx2"),
    "a Graviton": ("aarch64", "fp asimd asimdhp bf16 sve", "neon"),
}
"""By a processor's name: its architecture, some of its flags, and the build that it runs."""


@pytest.fixture
def use_build(monkeypatch):
    """Give the kernels of one build to whoever asks."""

    def use(wanted):
        found = library(compiled(wanted))
        for module in (native, launching, products):
            monkeypatch.setattr(module, "library", lambda: found)

    backends.use("native")
    yield use
    backends.use("auto")


@pytest.fixture
def processor(monkeypatch):
    """Pretend to be another processor."""
    monkeypatch.delenv(build.VARIABLE, raising=False)

    def pretend(machine, flags):
        monkeypatch.setattr(build, "machine", lambda: machine)
        monkeypatch.setattr(build, "processor_flags", lambda: frozenset(flags.split()))

    return pretend


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


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_best_build_that_a_processor_has_is_chosen(name, processor):
    machine, flags, expected = PROCESSORS[name]
    processor(machine, flags)
    assert build.candidates()[0].name == expected


@pytest.mark.parametrize("machine, flags", [("x86_64", "fpu sse2 avx"), ("riscv64", "")])
def test_a_processor_without_any_of_them_is_told_so(machine, flags, processor):
    processor(machine, flags)
    with pytest.raises(BackendUnavailable, match=f"AVX2 with FMA, AVX-512 and NEON; this processor \\({machine}\\)"):
        build.candidates()


def test_a_build_that_was_asked_for_is_taken_or_refused_by_name(processor, monkeypatch):
    processor("x86_64", SKYLAKE)
    for name in ("avx512", "avx2", "plain"):
        monkeypatch.setenv(build.VARIABLE, name)
        assert [found.name for found in build.candidates()] == [name]
    for name in ("avx512_bf16", "neon", "sse9"):
        monkeypatch.setenv(build.VARIABLE, name)
        with pytest.raises(ConfigError, match=f"HYLA_KERNELS is '{name}'.* it runs avx512, avx2, plain"):
            build.candidates()


def test_no_build_is_made_for_the_machine_that_compiles():
    for found in build.BUILDS:
        assert not any(flag.startswith(("-march", "-mtune", "-mcpu")) for flag in found.flags)
    assert not any("native" in flag for flag in build.FLAGS)


@needs_builds
def test_a_compiler_that_does_not_know_the_newest_instructions_leaves_the_next_build(monkeypatch, tmp_path):
    """gcc 9 on a processor with bf16, say."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.VARIABLE, raising=False)
    refused = build.Build("newer", None, frozenset(), ("-mno-such-instructions",))
    usable = build.Build("usable", None, frozenset(), ("-O0",))
    monkeypatch.setattr(build, "BUILDS", (refused, usable))
    small = tmp_path / "small.c"
    small.write_text("int hyla_nothing(void) { return 7; }\n")
    monkeypatch.setattr(build, "sources", lambda: [small])
    loaded, found = build.load()
    assert found is usable and loaded.hyla_nothing() == 7
    monkeypatch.setattr(build, "BUILDS", (refused,))
    with pytest.raises(BackendUnavailable, match=r"could not compile.*no-such-instructions"):
        build.load()


@needs_builds
def test_a_shipped_build_is_taken_without_a_compiler_and_only_for_these_sources(monkeypatch, tmp_path):
    monkeypatch.delenv(build.VARIABLE, raising=False)
    best = build.candidates()[0]
    made = compiled(best).read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    shipped = tmp_path / "shipped" / build.file_name(best)
    shipped.write_bytes(made)
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    loaded, found = build.load()
    assert loaded._name == str(shipped) and found is best and not (tmp_path / "cache").exists()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
    with pytest.raises(BackendUnavailable, match="no C compiler"):
        build.load()


@needs_builds
def test_a_damaged_file_in_the_cache_is_made_again(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.VARIABLE, raising=False)
    usable = build.Build("usable", None, frozenset(), ("-O0",))
    monkeypatch.setattr(build, "BUILDS", (usable,))
    small = tmp_path / "small.c"
    small.write_text("int hyla_nothing(void) { return 7; }\n")
    monkeypatch.setattr(build, "sources", lambda: [small])
    file = build.cached(usable, build.find_compiler())
    file.write_bytes(b"not a library")
    loaded, _ = build.load()
    assert loaded.hyla_nothing() == 7 and "compiled again" in caplog.text
