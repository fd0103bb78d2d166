"""Sparse attention trains: indexers warm up alone, then everything learns; no document hears of its neighbours."""

import json
import math

import pytest
import torch
from tiny_run import CONFIG, tiny_store

from hyla.data.packing import TokenStore
from hyla.errors import ConfigError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.config import TrainConfig
from hyla.train.indexers import teach
from hyla.train.loop import Trainer
from hyla.train.precision import Masters
from hyla.train.run_state import finished_states
from hyla.train.sources import packer_of

STAGES = ["warmup", "sparse"]
ONE_PASS = 1e-6
"""A step's gradient in several passes against one: the order of sums over rows differs."""


def tiny_sparse(std: float = 0.15) -> Model:
    """DeepSeek-V3.2 with three layers, two steps of multi-token prediction, and a selection of 23 keys."""
    config = family_of("deepseek_v32").tiny.model_copy(update={"vocab_size": 300})
    model = initialize(Model(config), 3)
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # larger weights, so that attention is not flat
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    for module in model.modules():
        if hasattr(module, "num_selected"):
            module.num_selected = 23
    return model


def config_of(stage, **options) -> TrainConfig:
    indexer = None if stage is None else {"stage": stage}
    chosen = {"optimizer": "adamw", "learning_rate": 1e-2, "max_document_tokens": 130, "indexer": indexer, **options}
    return TrainConfig(**{**CONFIG.model_dump(), **chosen})


def trainer_of(folder, config, store: TokenStore | None = None) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(tiny_sparse(), packer_of(store or tiny_store(), config), config, folder)


def gradients_of(folder, config) -> dict[str, torch.Tensor]:
    trainer = trainer_of(folder, config)
    trainer._gradients(trainer.source.step(0))
    return {name: weight.grad for name, weight in trainer.masters.weights.items() if weight.grad is not None}


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"].hex(), line["indexer_loss"].hex(), line["grad_norm"].hex()) for line in found]


def test_a_warm_up_moves_the_indexers_alone_and_brings_them_closer(tmp_path):
    trainer = trainer_of(tmp_path, config_of("warmup", steps=20))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    for name, parameter in trainer.model.named_parameters():
        is_moved = ".indexer." in name and not name.startswith("mtp.")
        assert torch.equal(parameter, before[name]) != is_moved, name
    owed = [line.indexer_loss for line in trainer.metrics.read()]
    assert sum(owed[-5:]) < 0.8 * sum(owed[:5])


def test_the_sparse_stage_moves_everything(tmp_path):
    trainer = trainer_of(tmp_path, config_of("sparse", mtp_weight=0.3, steps=12))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    still = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert all("router_bias" in name for name in still), still
    found = trainer.metrics.read()
    assert found[-1].loss < found[0].loss


def test_indexers_follow_sparse_attention_too(tmp_path):
    trainer = trainer_of(tmp_path, config_of("sparse", trainable=("*.indexer.*",), steps=20))
    trainer.run()
    owed = [line.indexer_loss for line in trainer.metrics.read()]
    assert sum(owed[-5:]) < 0.9 * sum(owed[:5])


def test_a_warmed_up_indexer_selects_what_dense_attention_reads(tmp_path):
    """Served sparsely, the model is closer to itself with dense attention than it was before its warm-up."""
    trainer = trainer_of(tmp_path, config_of("warmup", steps=40))
    rows = trainer.source.step(0)

    def distance() -> float:
        with torch.no_grad():
            sparse = trainer.model(rows.tokens_T, rows.batch)
        dense = trainer.model(rows.tokens_T, rows.batch).detach()  # with a lesson, where gradients are taken
        return float((sparse - dense).norm() / dense.norm())

    before = distance()
    trainer.run()
    assert distance() < 0.95 * before


def test_a_lesson_moves_no_bit_of_the_trunk_s_gradients(tmp_path):
    plain, taught = (gradients_of(tmp_path, config_of(stage, mtp_weight=0.3)) for stage in (None, "sparse"))
    assert taught.keys() - plain.keys() == {name for name in taught if ".indexer." in name} != set()
    assert all(torch.equal(gradient, taught[name]) for name, gradient in plain.items())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_recomputation_changes_no_bit(tmp_path, stage, dtype):
    options = {"dtype": dtype, "mtp_weight": 0.3}
    plain = gradients_of(tmp_path, config_of(stage, **options))
    again = gradients_of(tmp_path, config_of(stage, **options, recompute={"kinds": ("all",)}))
    assert plain.keys() == again.keys() != set()
    assert all(torch.equal(gradient, again[name]) for name, gradient in plain.items())
    assert any("mtp." in name and ".indexer." in name for name in plain)


@pytest.mark.parametrize("stage", STAGES)
def test_one_pass_agrees_with_several(tmp_path, stage):
    whole, parts = (gradients_of(tmp_path, config_of(stage, micro_batch_tokens=size)) for size in (None, 80))
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in whole.values()))
    for name, gradient in whole.items():
        assert float((gradient - parts[name]).double().norm()) <= ONE_PASS * norm, name


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, stage):
    config = config_of(stage, dtype="bf16", micro_batch_tokens=100, mtp_weight=0.3)
    trainer_of(tmp_path / "whole", config).run()
    for _ in range(config.steps + 1):
        stopped = trainer_of(tmp_path / "parts", config)
        stopped.resume()
        count = stopped.finished_steps + 2
        stopped.run(is_stopped=lambda: stopped.finished_steps >= count)  # noqa: B023
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole") and len(lines(tmp_path / "whole")) == config.steps
    ends = [finished_states(tmp_path / name / "checkpoints")[-1] for name in ("whole", "parts")]
    for file in ends[0].iterdir():
        if file.suffix == ".safetensors":
            assert file.read_bytes() == (ends[1] / file.name).read_bytes(), file.name


def of_one_document(stage: str, dtype: str, lengths: tuple[int, ...], place: int, seed: int):
    """What one document among others gives: the losses that are its own, and their gradients to its embedded inputs and
    to the indexers."""
    model = tiny_sparse()
    Masters(model, dtype)
    lesson = teach(model, stage)
    tokens = torch.randint(0, 300, (2, sum(lengths)), generator=torch.Generator().manual_seed(seed))
    first, length = sum(lengths[:place]), lengths[place]
    own = slice(first, first + length)
    tokens[:, own] = torch.randint(0, 300, (2, length), generator=torch.Generator().manual_seed(1))
    is_learnt = torch.zeros(sum(lengths), dtype=torch.bool)
    is_learnt[own] = True
    embedded = []

    def keep(module, inputs, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    model.embed.register_forward_hook(keep)
    targets = Targets(tokens[1], 1000, is_learnt, lesson=lesson)
    losses = model(tokens[0], Batch.packed(lengths), targets=targets)
    losses.total.backward()
    indexers = {n: p.grad for n, p in model.named_parameters() if ".indexer." in n and p.grad is not None}
    grad_TD = embedded[0].grad
    return losses, None if grad_TD is None else grad_TD[own], indexers


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_other_documents_change_no_bit(stage, dtype):
    (one, grad, of_indexers), (other, grad_2, of_indexers_2) = (
        of_one_document(stage, dtype, *where) for where in [((40, 1, 99, 33), 2, 5), ((7, 130, 99, 90), 2, 6)]
    )
    assert torch.equal(one.indexer, other.indexer) and one.indexer > 0
    assert torch.equal(one.next_token, other.next_token)
    if stage == "sparse":
        assert torch.equal(grad, grad_2) and grad.any()
    assert of_indexers.keys() == of_indexers_2.keys() != set()


def test_indexers_of_multi_token_prediction_hear_of_no_other_document():
    def owed(lengths, seed):
        model = tiny_sparse().double()
        lesson = teach(model, "sparse")
        tokens = torch.randint(0, 300, (2, sum(lengths)), generator=torch.Generator().manual_seed(seed))
        tokens[:, :90] = torch.randint(0, 300, (2, 90), generator=torch.Generator().manual_seed(1))
        is_learnt = torch.arange(sum(lengths)) < 90
        targets = Targets(tokens[1], 1000, is_learnt, mtp_weight=0.3, lesson=lesson)
        return model(tokens[0], Batch.packed(lengths), targets=targets).indexer

    assert float(owed((90, 20), 2)) == pytest.approx(float(owed((90, 33), 3)), rel=1e-12)


def test_what_cannot_be_taught_is_refused(tmp_path):
    from tiny_run import tiny_trainer

    with pytest.raises(ConfigError, match=r"indexer.stage = 'sparse', but the model has no sparse_mla.*kda"):
        tiny_trainer(tmp_path, TrainConfig(**{**CONFIG.model_dump(), "indexer": {"stage": "sparse"}}))
    for option in ({"trainable": ("head.weight",)}, {"z_loss": 1e-4}, {"router": {"bias_rate": 1e-3}}):
        with pytest.raises(ConfigError, match=f"trains the indexers alone; leave {next(iter(option))} out"):
            config_of("warmup", **option)
    with pytest.raises(ConfigError, match="stage"):
        config_of("dense")


def test_a_model_that_is_kept_has_no_lesson_any_more(tmp_path):
    trainer = trainer_of(tmp_path, config_of("warmup", steps=1))
    trainer.run()
    trainer.keep_final_weights()
    prompts = [list(range(1, 60))]
    with torch.no_grad():
        (served,) = trainer.model.logits(prompts)
    assert torch.equal(trainer.model.logits(prompts)[0].detach(), served)
