"""Tokenizers and chat templates: in, out, and nothing of theirs escapes the sandbox."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from hyla.checkpoints import Tokenizer, load_tokenizer
from hyla.errors import CheckpointError, RequestError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HELLO = [{"role": "user", "content": "hi"}]


def train(template=TEMPLATE):
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["def hello(world): return world"], trainer)
    return Tokenizer(backend, special={"bos_token": "<s>", "eos_token": "</s>"}, chat_template=template)


@pytest.fixture
def folder(tmp_path):
    train().save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["def hello()", "naïve 漢字 \t\n", ""])
def test_text_survives_encode_and_decode(folder, text):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_have_ids_and_can_be_hidden(folder):
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, None)
    ids = tokenizer.encode("<s>hello</s>")
    assert (ids[0], ids[-1]) == (0, 1)
    assert tokenizer.decode(ids) == "hello"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>hello</s>"
    assert tokenizer.vocab_size > 256


def test_a_saved_tokenizer_reads_the_same_and_in_transformers(folder):
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    text = "return hello(world) # 漢"
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert theirs.eos_token == "</s>"
    rendered = theirs.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    assert ours.render_chat(HELLO) == rendered == "<s><user>hi<assistant>"


def test_what_training_left_in_the_file_changes_no_prompt(folder):
    text = "return hello(world) # 漢" * 20
    expected = load_tokenizer(folder).encode(text)
    file = folder / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.enable_truncation(16)
    backend.enable_padding(length=500)
    backend.model.dropout = 0.5
    backend.save(str(file))
    assert json.loads(file.read_text())["truncation"]["max_length"] == 16
    assert load_tokenizer(folder).encode(text) == expected


def test_unknown_settings_are_kept(folder, tmp_path_factory):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 77}))
    again = tmp_path_factory.mktemp("again")
    load_tokenizer(folder).save(again)
    assert json.loads((again / "tokenizer_config.json").read_text()) == json.loads(file.read_text())


def test_the_template_may_stand_in_the_config(folder):
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    keys = json.loads(file.read_text())
    for stored in ("A {{ messages[0].content }}", [{"name": "default", "template": "A {{ messages[0].content }}"}]):
        file.write_text(json.dumps({**keys, "chat_template": stored, "eos_token": {"content": "</s>"}}))
        assert load_tokenizer(folder).render_chat(HELLO) == "A hi"


def test_a_chat_is_encoded_without_doubled_special_tokens(folder):
    ids = load_tokenizer(folder).encode_chat(HELLO)
    assert ids.count(0) == 1


def test_templates_have_the_usual_tools():
    template = (
        "{% generation %}{{ tools | tojson }}{% endgeneration %}{{ strftime_now('%Y') | length }}"
        "{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}{{ m.content }}{% endfor %}{{ flag }}"
    )
    tools = [{"name": "<f> & ü"}]
    rendered = train(template).render_chat(HELLO * 2, tools=tools, flag=True)
    assert rendered == '[{"name": "<f> & ü"}]4hiTrue'


def test_a_template_that_refuses_is_a_bad_request():
    with pytest.raises(RequestError, match="refuses these messages: roles must alternate") as caught:
        train("{{ raise_exception('roles must alternate') }}").render_chat(HELLO)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("template", ["{{ messages[7].content.x }}", "{{ 1 / 0 }}", "{{ messages + 1 }}"])
def test_a_template_that_fails_is_a_bad_request(template):
    with pytest.raises(RequestError, match="fails on these messages"):
        train(template).render_chat(HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for i in range(99999999) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template):
    with pytest.raises(RequestError, match="fails on these messages"):
        train(template).render_chat(HELLO)


def test_a_broken_template_is_refused_when_loading(folder):
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(CheckpointError, match="not a valid Jinja template"):
        load_tokenizer(folder)


def test_no_template_is_a_bad_request():
    with pytest.raises(RequestError, match="no chat template"):
        train(template=None).render_chat(HELLO)


def test_missing_and_broken_tokenizers_are_refused(folder):
    file = folder / "tokenizer.json"
    file.write_text(file.read_text()[:-50])
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a valid tokenizer"):
        load_tokenizer(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "eos, message",
    [("<end>", "'<end>' is not in tokenizer.json"), (3, "must be a text"), ("\ud800", "is not in tokenizer.json")],
)
def test_a_special_token_must_exist(folder, eos, message):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": eos}))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder)


class PanicException(BaseException):
    """What the tokenizers library raises where its Rust code panics."""


def test_a_panic_of_the_library_is_an_error_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text("{}")

    class Panicking:
        @staticmethod
        def from_str(text):
            raise PanicException("index out of bounds")

    monkeypatch.setattr("hyla.checkpoints.tokenizer.tokenizers.Tokenizer", Panicking)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a valid tokenizer: index out of bounds"):
        load_tokenizer(tmp_path)


def test_a_text_that_a_tokenizer_cannot_encode_is_the_request_s_error():
    broken = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="[UNK]"))
    with pytest.raises(RequestError, match=r"tokenizer fails on this text: WordPiece error.*may be broken"):
        Tokenizer(broken).encode("b")


@pytest.mark.parametrize("error", [PanicException("no entry found"), ValueError("no")])
def test_what_the_library_raises_while_it_works_is_a_request_s_error(error):
    class Failing:
        def encode_batch(self, *_, **__):
            raise error

        def decode(self, *_, **__):
            raise error

    broken = Tokenizer(Failing())
    for call in (lambda: broken.encode("x"), lambda: broken.decode([1])):
        with pytest.raises(RequestError, match="the model's tokenizer fails on"):
            call()
