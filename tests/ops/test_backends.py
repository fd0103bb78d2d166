"""Which code computes an operator: every folder offers the same, a choice is made once, kept and said."""

import logging
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import CPU_BACKENDS

import hyla.ops
from hyla.caches import Cache
from hyla.errors import ConfigError, HylaError
from hyla.layers.protocol import CacheSpec
from hyla.models.formats.registry import families
from hyla.models.initialize import initialize
from hyla.models.operators import backends_of, operators_of
from hyla.models.trunk import Model
from hyla.ops import backends, native
from hyla.ops.exact import primitives
from hyla.ops.operands import Operand

ROOT = Path(hyla.ops.__file__).parent
OPERATORS = sorted(
    ".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.rglob("pytorch.py") if file.parent != ROOT
)
FILES = {"__init__.py", "cost.py", "native.py", "pytorch.py", "README.md", "reference.py"}
FP32 = Operand("cpu", torch.float32)

needs_kernels = pytest.mark.skipif("native" not in CPU_BACKENDS, reason="no C compiler on this machine")


@pytest.fixture(autouse=True)
def back_to_auto():
    backends.use("auto")
    yield
    backends.use("auto")


def test_all_operators_are_found():
    assert {"attention", "exact.primitives", "gated_delta", "kda", "lightning", "linear", "moe"} < set(OPERATORS)


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "exact.primitives"])
def test_every_operator_s_folder_has_the_same_files(operator):
    found = {file.name for file in (ROOT / operator).iterdir()}
    assert found >= FILES, FILES - found


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_backend_s_module_offers_the_same_functions(operator):
    modules = {name: import_module(f"hyla.ops.{operator}.{file}") for name, file in backends.MODULES.items()}
    assert modules["torch"].unsupported(FP32) is None, "the torch backend computes everywhere"
    called = ("forward", "backward") if operator in ("gla", "lightning", "linear", "ssd") else ("forward",)
    if operator == "exact.primitives":
        called = (
            "l2_norm",
            "relu2",
            "rms_norm",
            "sigmoid",
            "sigmoid_gate",
            "silu",
            "softmax_last",
            "softplus",
            "swiglu",
        )
    for module in modules.values():
        has_kernel = module.unsupported(FP32) != backends.NO_KERNEL
        missing = [name for name in called if not callable(getattr(module, name, None))]
        assert missing == [] or not has_kernel


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_model_names_the_operators_that_it_computes_with(family, caplog):
    model = initialize(Model(family.tiny), 5, std=0.2)
    with caplog.at_level(logging.INFO, logger=backends.__name__):
        model.logits([[1, 2, 3]])
    # Without a compiler a warning says so besides.
    records = [r for r in caplog.records if r.name == backends.__name__ and r.levelno == logging.INFO]
    said = {record.args[0] for record in records}
    assert said <= set(operators_of(model))
    report = backends_of(model)
    assert list(report) == list(operators_of(model)) and set(report) <= set(OPERATORS)
    assert report["exact.primitives"]["backend"] == CPU_BACKENDS[0]


@needs_kernels
def test_what_was_not_chosen_has_its_reason():
    report = backends.report(["kda", "sparse"], torch.device("cpu"), torch.bfloat16)
    assert report["kda"]["backend"] == "native"
    assert report["sparse"] == {"backend": "torch", "not": {"native": backends.NO_KERNEL}}
    wide = backends.report(["kda"], torch.device("cpu"), torch.float64)
    assert wide["kda"] == {"backend": "torch", "not": {"native": "no kernels in float64"}}
    backends.use("torch")
    chosen = backends.report(["kda"], torch.device("cpu"), torch.float32)
    assert chosen["kda"]["not"] == {"native": "the choice is 'torch'"}
    assert backends.describe(report) == ["native: kda", "torch (native: no kernel for this operator): sparse"]


def test_nothing_is_compiled_for_a_device_that_does_not_use_it(monkeypatch):
    native.forget()
    monkeypatch.setattr(native, "library", lambda: pytest.fail("compiled"))
    report = backends.report(["attention", "kda"], torch.device("meta"), torch.bfloat16)
    assert report["kda"]["not"]["native"] == "for the CPU, not for meta"
    assert backends.on(torch.device("meta")) != "native"
    x = torch.empty(3, 20, device="meta")
    backends.use("auto")
    assert backends.choose("kda", x) is backends.choose("kda", x)


def test_an_operator_is_resolved_once_and_said_once(caplog, monkeypatch):
    backends.use("auto")
    x = torch.randn(3, 20)
    with caplog.at_level(logging.INFO, logger=backends.__name__):
        for _ in range(3):
            primitives.silu(x)
        monkeypatch.setattr(backends, "resolve", lambda *_: pytest.fail("resolved again"))
        primitives.silu(torch.randn(70, 20))
    assert caplog.text.count("exact.primitives is computed by") == 1


def test_an_unknown_backend_is_named():
    with pytest.raises(ConfigError, match="'cuda' is unknown; there are auto, native, torch"):
        backends.use("cuda")


@needs_kernels
def test_caches_that_one_backend_filled_are_not_continued_by_another():
    cache = Cache([CacheSpec()], num_pages=2, num_slots=1)
    sequence = cache.open()
    cache.batch([(sequence, 3)])
    cache.commit(sequence, 3)
    backends.use("native")
    cache.batch([(sequence, 1)])
    cache.commit(sequence, 1)
    backends.use("torch")
    with pytest.raises(HylaError, match="filled by the native backend and now torch computes"):
        cache.batch([(sequence, 1)])
    cache.close(sequence)
    cache.release()
    cache.allocate()
    cache.batch([(cache.open(), 1)])
