"""Kept prefixes outlive what computes nothing, and nothing else."""

import shutil

import pytest
import torch
from matrix.mixers import model_of

from hyla.engine.sources import PACKAGE, code_digest, files_of

CHANGES = {
    "ops/kda/pytorch.py": {"kda"},
    "ops/kda/native.py": {"kda"},
    "layers/kda.py": {"kda"},
    "layers/softmax.py": {"kda", "softmax"},
    "ops/short_conv/plan.py": {"kda"},
    "ops/exact/rows.py": {"kda", "softmax"},
    "ops/native/product.c": {"kda", "softmax"},
    "models/stack.py": {"kda", "softmax"},
    "caches/storage.py": {"kda", "softmax"},
    "models/families/qwen3.py": set(),
    "models/families/a_new_one.py": set(),
    "models/formats/presets.py": set(),
    "models/config/model.py": set(),
    "caches/ledger.py": set(),
    "engine/engine.py": set(),
    "cost/work.py": set(),
}
"""By changed or new file: the models whose states it may change. The kda model has a softmax layer that drafts."""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "hyla"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "page"))
    return copy


@pytest.fixture(scope="module")
def models():
    return {mixer: model_of(mixer, "float32") for mixer in ("kda", "softmax")}


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_concerns_the_models_that_compute_with_it(path, package, models):
    before = {name: code_digest(model, package) for name, model in models.items()}
    file = package / path
    old = file.read_bytes() if file.exists() else None
    file.write_bytes((old or b'"""A family."""\n') + b"/* */\n" if path.endswith(".c") else (old or b"") + b"# more\n")
    try:
        after = {name: code_digest(model, package) for name, model in models.items()}
    finally:
        file.unlink() if old is None else file.write_bytes(old)
    assert {name for name in models if before[name] != after[name]} == CHANGES[path]


@torch.no_grad()
def test_every_loaded_module_that_computes_is_among_the_files(models):
    """What is really called, against what the imports say."""
    import sys

    called = set()

    def watch(frame, event, _):
        called.add(frame.f_code.co_filename)

    for model in models.values():
        sys.setprofile(watch)
        try:
            model.logits([list(range(5))])
        finally:
            sys.setprofile(None)
        here = {str(file) for file in files_of(model)}
        mine = {name for name in called if name.startswith(str(PACKAGE))}
        assert mine - here - {str(PACKAGE / name) for name in ("models/ids.py", "ranges.py")} == set()
        called.clear()
