"""A panic of the tokenizers library is no `Exception` in Python; here it is an error that says what failed."""

import json

import pytest
from panicking import panicking_backend
from test_tokenizer_folder import train

from hyla.checkpoints import load_tokenizer
from hyla.checkpoints.library_errors import failures_as
from hyla.errors import CheckpointError, RequestError


def panics_on_text(backend):
    """A tokenizer.json whose every text fails, but only with special tokens."""
    file = json.loads(backend.to_str())
    file["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "none", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    return file


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"decoder": {"type": "Strip", "content": "a", "start": 5, "stop": 7}},
        {"post_processor": panics_on_text(train().backend)["post_processor"]},
        {
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "##b": 1},
                "merges": ["a ##b"],
                "continuing_subword_prefix": "####",
            }
        },
        # This one would end the process.
        {"model": {"type": "BPE", "vocab": {"a": 0, "é": 1}, "merges": [["a", "é"]], "continuing_subword_prefix": "b"}},
    ],
    ids=["load", "encode", "decode", "post-processor", "prefix", "abort"],
)
def test_a_file_that_makes_the_library_panic_is_an_error_of_the_checkpoint(tmp_path, change):
    train().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "added_tokens": [], **change}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a valid tokenizer: .+; fetch or save it again"):
        load_tokenizer(tmp_path)


def test_a_text_and_ids_on_which_it_panics_are_bad_requests():
    broken = train()
    broken.backend = panicking_backend(broken.backend)
    with pytest.raises(RequestError, match=r"tokenizer fails on this text: .*stride"):
        broken.encode("x" * 100)
    with pytest.raises(RequestError, match=r"tokenizer fails on these token ids: .+"):
        broken.decode([broken.token_id("a")])


def test_a_vocabulary_without_some_letters_is_read(tmp_path):
    train().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    model = {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "none"}
    plain = {"pre_tokenizer": None, "decoder": None, "added_tokens": []}
    file.write_text(json.dumps({**json.loads(file.read_text()), **plain, "model": model}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("x") == [0]
    with pytest.raises(RequestError, match="tokenizer fails on this text: WordLevel error"):
        tokenizer.encode("y")


def test_half_a_surrogate_pair_is_a_bad_request():
    with pytest.raises(RequestError, match="character 1 is half of a surrogate pair"):
        train().encode("x\ud800")


def test_ctrl_c_is_no_failure_of_the_library():
    with pytest.raises(KeyboardInterrupt), failures_as(RequestError):
        raise KeyboardInterrupt
