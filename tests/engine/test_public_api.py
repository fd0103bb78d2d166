import subprocess
import sys

import pytest
import torch
from tiny_text import byte_tokenizer

import hyla
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model


def test_importing_hyla_alone_loads_no_pytorch():
    code = "import sys, hyla; assert 'torch' not in sys.modules; assert 'Engine' in dir(hyla)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Motor'; it has Engine"):
        hyla.Motor  # noqa: B018


def test_a_saved_folder_is_loaded_and_answers_like_the_model_it_was(tmp_path):
    config = family_of("kimi_linear").tiny.model_copy(update={"vocab_size": 259, "eos_token_ids": (256,)})
    model = initialize(Model(config), 1, std=0.3)
    hyla.save(model, tmp_path / "folder", tokenizer=byte_tokenizer())
    params = hyla.SamplingParams(max_tokens=5, temperature=0, logprobs=1)
    (here,) = hyla.Engine(model, tokenizer=byte_tokenizer(), memory=1 << 24).generate("same", params)
    from_folder = hyla.Engine(tmp_path / "folder", memory=1 << 24)
    (there,) = from_folder.generate("same", params)
    assert (there.token_ids, there.logprobs, there.text) == (here.token_ids, here.logprobs, here.text)
    assert from_folder.eos_ids == (256,)
    with torch.no_grad():
        (logits,) = hyla.load(tmp_path / "folder").logits([list(b"same")])
    assert int(logits[-1].argmax()) == here.token_ids[0]
    assert hyla.Engine(tmp_path / "folder", dtype=torch.bfloat16, memory=1 << 24).model.dtype == torch.bfloat16
