"""`--adapter` on the command line."""

import pytest
import typer
from adapted_models import stirred
from click.testing import CliRunner
from tiny_model import save_tiny_folder

from hyla.adapters import LoraConfig, attach, merge, save_adapter
from hyla.checkpoints import load_model, load_tokenizer, save_model
from hyla.cli import main
from hyla.cli.app import app


def run(*arguments, typed=None):
    """(exit status, printed text) of a verb, in this process. typed: what stands on its standard input."""
    words = [str(part) for part in arguments]
    result = CliRunner().invoke(typer.main.get_command(app), words, input=typed, catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture
def folders(tmp_path):
    """A base, an adapter of it, and the merged model."""
    base = save_tiny_folder(tmp_path / "base")
    adapters = stirred(attach(load_model(base), LoraConfig(rank=2, alpha=64.0, targets=("all-linear", "experts"))))
    save_adapter(adapters, tmp_path / "adapter", base="base")
    save_model(merge(adapters), tmp_path / "merged", tokenizer=load_tokenizer(base))
    return base, tmp_path / "adapter", tmp_path / "merged"


def test_generate_merges_an_adapter(folders):
    base, adapter, merged = folders
    how = ("def ", "--max-tokens", 8, "--seed", 1)
    texts = [run("generate", *model, *how) for model in ((base, "--adapter", adapter), (merged,), (base,))]
    assert texts[0] == texts[1] and texts[0][0] == 0 and texts[0] != texts[2]


def test_chat_merges_an_adapter(folders):
    base, adapter, merged = folders
    how = ("--max-tokens", 8, "--seed", 1)
    models = ((base, "--adapter", adapter), (merged,), (base,))
    said = [run("chat", *model, *how, typed="def \n") for model in models]
    texts = [text.replace(str(model[0]), "").replace(model[0].name, "") for (_, text), model in zip(said, models)]
    assert texts[0] == texts[1] and said[0][0] == 0 and texts[0] != texts[2]


def test_a_server_s_model_gets_no_adapter_from_here(folders, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hyla", "chat", "http://127.0.0.1:9", "--adapter", str(folders[1])])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1 and "give the adapter to its `hyla serve`" in capsys.readouterr().err


def test_the_flag_of_serve_is_made_from_the_option():
    status, text = run("serve", "--help")
    assert status == 0 and "--adapter" in text


def test_an_adapter_given_as_a_model_says_how_to_use_it(folders, monkeypatch, capsys):
    _, adapter, _ = folders
    monkeypatch.setattr("sys.argv", ["hyla", "generate", str(adapter), "def "])
    with pytest.raises(SystemExit):
        main()
    assert "--adapter of its base" in capsys.readouterr().err


def test_a_wrong_adapter_ends_in_one_message(folders, monkeypatch, capsys):
    base, _, merged = folders
    monkeypatch.setattr("sys.argv", ["hyla", "generate", str(base), "def ", "--adapter", str(merged)])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 1 and "adapter_config.json" in told and "Traceback" not in told


def test_the_server_s_process_reads_the_adapter_s_tokenizer(folders):
    from hyla.adapters import extend_vocabulary, tokenizer_beside
    from hyla.checkpoints import open_checkpoint

    base, adapter, _ = folders
    _, wider = extend_vocabulary(load_model(base), load_tokenizer(base), ["<|new|>"])
    assert tokenizer_beside(open_checkpoint(base), adapter).token_id("<|new|>") is None
    wider.save(adapter)
    assert tokenizer_beside(open_checkpoint(base), adapter).token_id("<|new|>") is not None
