"""Where chat templates stand in a folder, read as transformers reads them."""

import json

import pytest
from gguf_writing import GGUF
from test_tokenizer_folder import HELLO, train
from tiny_gguf import tiny_gguf

from hyla.checkpoints import load_tokenizer
from hyla.errors import CheckpointError, RequestError

TOOLS = [{"type": "function", "function": {"name": "f"}}]
NAMED = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T {{ tools | length }}"}]


@pytest.fixture
def folder(tmp_path):
    """A tokenizer without a template."""
    train(None).save(tmp_path)
    return tmp_path


def set_key(folder, value):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": value}))


def both(folder):
    """What we and transformers write, without tools and with them."""
    from transformers import AutoTokenizer

    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    options = {"tokenize": False, "add_generation_prompt": True}
    found = [ours.render_chat(HELLO), ours.render_chat(HELLO, tools=TOOLS)]
    return found, [theirs.apply_chat_template(HELLO, tools=tools, **options) for tools in (None, TOOLS)]


def test_named_templates_of_the_config(folder):
    set_key(folder, NAMED)
    ours, theirs = both(folder)
    assert ours == theirs == ["D", "T 1"]


def test_named_templates_in_files_come_before_the_config(folder):
    set_key(folder, "never")
    (folder / "chat_template.jinja").write_text("D2")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T2")
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    ours, theirs = both(folder)
    assert ours == theirs == ["D2", "T2"]


def test_an_old_chat_template_json_is_the_last_to_be_read(folder):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "J {{ messages[0].content }}"}))
    assert load_tokenizer(folder).render_chat(HELLO) == "J hi"
    set_key(folder, "C")
    assert load_tokenizer(folder).render_chat(HELLO) == "C"


def test_named_templates_survive_a_save(folder, tmp_path_factory):
    set_key(folder, NAMED)
    again = tmp_path_factory.mktemp("again")
    load_tokenizer(folder).save(again)
    assert "chat_template" not in json.loads((again / "tokenizer_config.json").read_text())
    ours, theirs = both(again)
    assert ours == theirs == ["D", "T 1"]


def test_a_saved_model_with_named_templates_is_replaced_by_the_next_one(tmp_path):
    from tiny_model import save_tiny_folder

    folder = save_tiny_folder(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T")
    save_tiny_folder(folder)
    assert not (folder / "additional_chat_templates").exists()


def test_templates_for_tools_alone_need_tools(folder):
    set_key(folder, NAMED[1:])
    tokenizer = load_tokenizer(folder)
    assert tokenizer.render_chat(HELLO, tools=TOOLS) == "T 1"
    with pytest.raises(RequestError, match="has chat templates for tool_use and none without tools"):
        tokenizer.render_chat(HELLO)


def test_the_format_of_calls_is_found_in_the_template_for_tools(folder):
    from hyla.server.served import served_model

    call = "<tool_call>{{ tools | tojson }}</tool_call>"
    set_key(folder, [NAMED[0], {"name": "tool_use", "template": call}])
    assert served_model(None, "tiny", load_tokenizer(folder)).format.names()["tools"] == "hermes"


@pytest.mark.parametrize(
    "value, message",
    [
        (3, "chat_template = 3 is neither a text nor a list of"),
        ([{"name": "default"}], "neither a text nor a list"),
        (["x"], "neither a text nor a list"),
        ([{"name": "../../evil", "template": "x"}], r"one is called '\.\./\.\./evil'; a name has letters"),
        ({"a/b": "x"}, "one is called 'a/b'"),
        ([NAMED[0], {"name": "tool_use", "template": "{% for %}"}], r"\(tool_use\) is not a valid Jinja template"),
    ],
)
def test_what_is_no_template_is_refused_by_name(folder, value, message):
    set_key(folder, value)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * (1 << 19)])
def test_files_that_are_no_templates_are_refused_by_name(folder, data):
    (folder / "chat_template.jinja").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        load_tokenizer(folder)


def test_a_gguf_file_has_named_templates(tmp_path):
    keys = {
        "tokenizer.chat_template": "D {{ messages[0].content }}",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "T {{ tools | length }}",
    }
    given = tiny_gguf()
    path = tmp_path / "tiny.gguf"
    path.write_bytes(GGUF({**given.metadata, **keys}, given.tensors).encode())
    tokenizer = load_tokenizer(path)
    assert (tokenizer.render_chat(HELLO), tokenizer.render_chat(HELLO, tools=TOOLS)) == ("D hi", "T 1")
    keys |= {"tokenizer.chat_templates": ["../../evil"], "tokenizer.chat_template.../../evil": "x"}
    path.write_bytes(GGUF({**given.metadata, **keys}, given.tensors).encode())
    with pytest.raises(CheckpointError, match=r"the chat template in .*tiny\.gguf: one is called '\.\./\.\./evil'"):
        load_tokenizer(path)


def test_a_pipe_in_the_place_of_a_template_is_named_and_not_waited_for(folder):
    import os

    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates" / "tool_use.jinja")
    with pytest.raises(CheckpointError, match=r"tool_use\.jinja cannot be read: it is a pipe"):
        load_tokenizer(folder)
    os.mkfifo(folder / "chat_template.jinja")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read: it is a pipe"):
        load_tokenizer(folder)
