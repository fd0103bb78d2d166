"""Recipes: each shipped one, small; `--set`; errors that name what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from test_preferences import TEMPLATE, pair
from tiny_run import write_text_folder
from tiny_text import byte_tokenizer

from hyla.adapters import load_adapted
from hyla.checkpoints import load_model, save_model
from hyla.errors import ConfigError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.dry_run import dry_run
from hyla.train.recipe_file import read_recipe
from hyla.train.run import RunRequest, open_run

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
RECIPES = [path for path in SHIPPED if path.stem != "rl"]
"""Those of `hyla train`; tests/rl/test_rl_recipe.py has the other one."""
SHORT = ("train.steps=2", "train.batch_tokens=96", "train.micro_batch_tokens=40", "train.max_document_tokens=48")
TINY = {
    "quickstart": ["model.hybrid.vocab_size=300", "model.hybrid.hidden_dim=32", "model.hybrid.pattern=KM"],
    "any-stack": ["model.stack.vocab_size=300", "model.stack.hidden_dim=32"],
    "five-mixers": ["model.stack.vocab_size=300", "model.stack.hidden_dim=32"],
    "state-passing": ["train.max_document_tokens=64"],
}
TRAINED = {"mtp-healing": "nemotron_h", "sparse-attention": "deepseek_v32"}
"""Recipes that begin with a trained model of a certain family; others that do take a hybrid of any."""


def quiet(line: str) -> None:
    pass


@pytest.fixture
def texts(tmp_path) -> Path:
    return write_text_folder(tmp_path / "texts")


def trained_folder(family: str, folder: Path) -> Path:
    """A tiny model of a family, with a tokenizer and a chat template."""
    tokenizer = byte_tokenizer(TEMPLATE)
    config = family_of(family).tiny.model_copy(update={"vocab_size": tokenizer.vocab_size})
    save_model(initialize(Model(config), 1), folder, tokenizer=tokenizer)
    return folder


def tiny_request(path: Path, tmp_path: Path, texts: Path, *more: str):
    text, settings = path.read_text(), [*SHORT, *TINY.get(path.stem, ()), *more]
    if "[dpo]" in text:
        (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(pair(number)) for number in range(6)))
        settings += [f"dpo.pairs={tmp_path / 'pairs.jsonl'}", "train.max_document_tokens=200"]
    else:
        settings += [f"data.texts={texts}", "data.heldout_share=0.2"]
    if "start_from" in text:
        family = TRAINED.get(path.stem, "kimi_linear")
        settings.append(f"model.start_from={trained_folder(family, tmp_path / 'trained')}")
    elif "[model.family]" in text:
        settings.append("model.family.vocab_size=300")
    return read_recipe(path, settings)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_trains_and_its_model_loads(path, tmp_path, texts):
    request = tiny_request(path, tmp_path, texts)
    run = open_run(tmp_path / "run", request, quiet)
    trained = run.trained(lambda metrics: None, lambda step: None)
    assert trained.is_finished
    run.save_model(trained.model)
    loaded = load_model(run.model_folder)
    for (name, kept), (_, found) in zip(trained.model.named_parameters(), loaded.named_parameters()):
        assert torch.equal(kept.detach(), found), name


def test_there_are_the_recipes_that_the_docs_promise():
    assert {path.stem for path in SHIPPED} >= {
        "quickstart",
        "ring-linear",
        "kimi-linear",
        "qwen3-next",
        "nemotron-h",
        "mimo",
        "continued-pretraining",
        "long-context",
        "mtp-healing",
        "deepseek-v32",
        "sparse-attention",
        "state-passing",
        "sft",
        "lora",
        "dpo",
        "rl",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run_counts_what_the_model_has(path, tmp_path, texts):
    request = tiny_request(path, tmp_path, texts)
    found = dry_run(request)
    made = request.model.made(found.config, 0)
    assert found.parameters == sum(parameter.numel() for parameter in made.parameters())
    assert found.memory.gradient_bytes == 4 * found.parameters
    if request.dpo is None:
        assert found.tokens == 2 * 96 and found.flops == found.flops_per_token * found.tokens
    assert found.memory.bytes > found.memory.weight_bytes + found.memory.optimizer_bytes


def test_settings_win_over_the_file_and_keep_the_rest(tmp_path):
    (tmp_path / "r.toml").write_text("[model.hybrid]\nhidden_dim = 64\npattern = 'KM'\n[train]\nsteps = 9\nseed = 4\n")
    request = read_recipe(tmp_path / "r.toml", ["train.steps=3", "model.hybrid.pattern=KKM", "data.texts=here"])
    assert (request.train.steps, request.train.seed) == (3, 4)
    assert (request.model.hybrid.pattern, request.model.hybrid.hidden_dim) == ("KKM", 64)
    assert request.data.texts == str(Path.cwd() / "here")


def test_paths_in_a_recipe_are_meant_from_its_folder(tmp_path):
    text = "[model]\nstart_from = 'model'\n[data]\nstores = [{folder = 's', weight = 2}]\n[train]\nsteps = 1\n"
    (tmp_path / "r.toml").write_text(text)
    (tmp_path / "model").mkdir()
    request = read_recipe(tmp_path / "r.toml")
    assert request.model.start_from == str(tmp_path / "model")
    assert request.data.stores[0].folder == str(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("[train]\nsteps = 1\n", [], "model"),
        ("[model]\n[train]\nsteps = 1\n", [], "give one of hybrid, stack, family, start_from"),
        ("[model.hybrid]\n[train]\nsteps = 0\n", [], "steps"),
        ("[model.hybrid]\n[train]\nstep = 1\n", [], "step"),
        ("[model.hybrid]\n[train]\nsteps = 1\n[speed]\n", [], "speed"),
        ("[model.family]\nname = 'gpt5'\n[train]\nsteps = 1\n", [], None),
        ("[model.hybrid]\n[train]\nsteps = 1\n", ["train.steps"], "table.key=value"),
        ("[model.hybrid\n", [], "is not TOML"),
        (None, [], "does not exist"),
    ],
)
def test_a_wrong_recipe_is_one_clear_error(tmp_path, text, settings, words):
    path = tmp_path / "r.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words or "gpt5.*none of.*kimi_linear"):
        request = read_recipe(path, settings)
        request.model.model_config_of(300, 0)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"mtp_weight": 0.3}, "no multi-token prediction"),
        ({"trainable": ("*.nothing",)}, "matches no parameter"),
        ({"recompute": {"kinds": ("lightning",)}}, "a kind that this model has not"),
        ({"recompute": {"kinds": ("attention",)}}, "no kind of sublayer"),
    ],
)
def test_what_a_model_cannot_do_is_said_before_it_trains(tmp_path, texts, train, words):
    path = next(path for path in RECIPES if path.stem == "quickstart")
    request = tiny_request(path, tmp_path, texts)
    request = request.model_copy(update={"train": type(request.train)(**{**request.train.model_dump(), **train})})
    run = open_run(tmp_path / "run", request, quiet)
    with pytest.raises(ConfigError, match=words):
        run.trained(lambda metrics: None, lambda step: None)


def test_an_adapter_is_trained_kept_and_goes_on_bit_for_bit(tmp_path, texts):
    path = next(path for path in RECIPES if path.stem == "lora")
    more = ["train.steps=4", "train.checkpoint_every=1", "train.dtype=bf16", "lora.rank=3"]
    request, files = tiny_request(path, tmp_path, texts, *more), []
    base = load_model(request.model.start_from)
    for name in ("whole", "parts"):
        run, said = open_run(tmp_path / name, request, quiet), []
        if name == "parts":
            count = []
            run.trained(count.append, quiet, is_stopped=lambda: len(count) == 2)  # noqa: B023
        trained = run.trained(lambda line: None, lambda step: None, say=said.append)
        run.save_model(trained.model)
        assert "matrices" in said[0] and "trained:" in said[0]
        state = sorted((run.folder / "checkpoints").glob("step-*"))[-1] / "weights.safetensors"
        files.append((state.read_bytes(), (run.adapter_folder / "adapter_model.safetensors").read_bytes()))
    assert files[0] == files[1]
    adapted, merged = load_adapted(request.model.start_from, run.adapter_folder), load_model(run.model_folder)
    prompts = [[1, 5, 9, 30], [7] * 70]
    with torch.no_grad():
        for found, expected, before in zip(adapted.logits(prompts), merged.logits(prompts), base.logits(prompts)):
            assert not torch.equal(found, before)
            # One has the file's fp32 weights, the other was trained on bf16 ones.
            torch.testing.assert_close(found, expected, rtol=0.0, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"hybrid": {}}}, "lora needs a trained model"),
        ({"train": {"steps": 1, "trainable": ["head.*"]}}, "leave train.trainable out"),
        ({"train": {"steps": 1, "router": {"bias_rate": 1e-3}}}, "which no adapter holds; leave it out"),
        ({"lora": {"dropout": 0.1}}, "0 by design"),
        ({"lora": {"ranks": 3}}, "ranks"),
    ],
)
def test_what_goes_with_no_adapter_is_refused(tables, words):
    with pytest.raises(ConfigError, match=words):
        RunRequest(**{"model": {"start_from": "x"}, "lora": {}, "train": {"steps": 1}, **tables})
