"""A run on a token store."""

import json

import pytest
import torch
from tiny_run import CONFIG, RECIPE
from tiny_text import byte_tokenizer

from hyla.data.batch_sizes import BatchSizes
from hyla.data.build import BuildRequest, build_store
from hyla.data.packing import PackedRows
from hyla.errors import ConfigError
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.trunk import Model
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.model_source import ModelSource
from hyla.train.report import heldout_score
from hyla.train.run import RunRequest, open_run
from hyla.train.run_data import DataSource, StoreShare

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_store(folder, *, share=0.2, is_chat=False, word="word"):
    (folder / "t").mkdir(parents=True)
    byte_tokenizer(TEMPLATE).save(folder / "t")
    texts = [f"{word} {number} " * 4 for number in range(40)]
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}] for text in texts]
    lines = [{"text": text, "messages": chat} for text, chat in zip(texts, chats)]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return build_store(
        folder / "store",
        BuildRequest(
            inputs=(str(folder / "in.jsonl"),), tokenizer=str(folder / "t"), heldout_share=share, is_chat=is_chat
        ),
    )


def request(store, **train):
    config = TrainConfig(**{**CONFIG.model_dump(), "steps": 3, **train})
    data = DataSource(stores=(StoreShare(folder=str(store.folder)),))
    return RunRequest(model=ModelSource(hybrid=RECIPE), data=data, train=config)


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_run_reads_a_store_and_scores_its_held_out_documents(tmp_path, is_chat):
    store = make_store(tmp_path, is_chat=is_chat)
    run = open_run(tmp_path / "run", request(store), lambda line: None)
    assert run.data.train[0].tokens.data_ptr() and run.data.num_tokens == len(store.train.tokens)
    assert run.model_config.vocab_size == store.tokenizer().vocab_size
    assert run.model_config.eos_token_ids == (store.tokenizer().eos_token_id,)
    trained = run.trained(lambda metrics: None, lambda step: None)
    run.save_model(trained.model)
    assert trained.is_finished and 0 < heldout_score(run, trained.model).bits_per_byte < 20
    again = open_run(tmp_path / "run", request(store), lambda line: None)
    assert [d.text for d in again.heldout] == [d.text for d in run.heldout]


def test_a_store_that_changed_under_a_run_is_one_clear_error(tmp_path):
    store = make_store(tmp_path / "a")
    open_run(tmp_path / "run", request(store), lambda line: None)
    other = make_store(tmp_path / "b", word="other")
    for file in store.folder.iterdir():
        if file.is_file():
            file.write_bytes((other.folder / file.name).read_bytes())
    with pytest.raises(ConfigError, match="has other documents now"):
        open_run(tmp_path / "run", request(store), lambda line: None)


def test_a_store_without_held_out_documents_says_how_to_get_some(tmp_path):
    with pytest.raises(ConfigError, match="--heldout-share"):
        open_run(tmp_path / "run", request(make_store(tmp_path, share=0.0)), lambda line: None)


def test_the_loss_is_the_mean_over_what_is_learnt():
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 1)
    tokens = torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(1))
    is_learnt = torch.arange(40) % 3 == 0
    rows = PackedRows(tokens, tokens.roll(-1), (25, 15), is_learnt)
    targets = Targets(rows.targets_T, chunk_rows=7, is_learnt_T=is_learnt)
    loss = model(tokens, rows.batch, targets=targets).total
    logits = model.head_logits(model(tokens, rows.batch))
    expected = torch.nn.functional.cross_entropy(logits[is_learnt], rows.targets_T[is_learnt])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    assert model.head.weight.grad is not None


class NothingToLearn:
    """Steps of rows that belong to a question."""

    sizes = BatchSizes(20)

    def step(self, step):
        return PackedRows(torch.arange(20), torch.arange(20), (20,), torch.zeros(20, dtype=torch.bool))


def test_rows_of_which_nothing_is_learnt_change_nothing(tmp_path):
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    result = Trainer(model, NothingToLearn(), CONFIG, tmp_path).update(0)
    assert result.losses["loss"] == 0.0 and result.fault is None
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
