"""bf16 with fp32 behind it, steps in several passes, what is kept in bf16, averages, ramps, spikes, recomputation."""

import json
import math

import pytest
import torch
from tiny_run import CONFIG, RECIPE, tiny_store, tiny_trainer

from hyla.checkpoints import load_model, save_model
from hyla.data.batch_sizes import BatchSizes
from hyla.data.packing import Packer
from hyla.errors import ConfigError
from hyla.layers.parameters import by_name
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.muon import Muon, heads_of
from hyla.train.rounding import generator_of, round_by_chance
from hyla.train.run_state import finished_states
from hyla.train.schedule import rate_factor
from hyla.train.sources import packer_of

ONE_PASS = 1e-6
"""A step's gradient in several passes against one: the order of sums over rows differs."""


def with_options(**options) -> TrainConfig:
    return TrainConfig(**{**CONFIG.model_dump(), **options})


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"].hex(), line["grad_norm"].hex()) for line in found]


def new_folder(path):
    path.mkdir(parents=True)
    return path


OPTIONS = {
    "bf16": {"dtype": "bf16"},
    "passes": {"micro_batch_tokens": 80},
    "bf16 memory": {"state_dtype": "bf16", "optimizer": "muon"},
    "ema": {"average": {"kind": "ema", "decay": 0.7}},
    "merge": {"average": {"kind": "merge", "fraction": 0.7, "every": 2}, "decay_fraction": 0.0},
    "ramp": {"ramp": {"batch_tokens": 60, "steps": 5}},
    "biases and z": {"router": {"bias_rate": 1e-3, "z_loss": 1e-3}, "z_loss": 1e-4},
    "recomputed": {"recompute": {"kinds": ("all",)}},
    "skip": {"spikes": {"action": "skip", "factor": 1.0001, "window": 4}},
    "rollback": {"spikes": {"action": "rollback", "factor": 1.5, "window": 4, "most": 100}, "checkpoint_every": 2},
    "held out": {"heldout": {"every": 2, "tokens": 100}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, options):
    config = with_options(**options)
    whole, parts = new_folder(tmp_path / "whole"), new_folder(tmp_path / "parts")
    trainer = tiny_trainer(whole, config)
    trainer.heldout = tiny_store(3)
    trainer.run()
    for _ in range(config.steps + 1):
        stopped = tiny_trainer(parts, config)
        stopped.heldout = tiny_store(3)
        stopped.resume()
        count = stopped.finished_steps + 2
        stopped.run(is_stopped=lambda: stopped.finished_steps >= count)  # noqa: B023
    assert lines(parts) == lines(whole) and len(lines(whole)) == config.steps
    ends = [finished_states(folder / "checkpoints")[-1] for folder in (whole, parts)]
    for file in ends[0].iterdir():
        if file.suffix == ".safetensors":
            assert file.read_bytes() == (ends[1] / file.name).read_bytes(), file.name
    if "heldout" in options:
        assert (whole / "heldout.jsonl").read_text() == (parts / "heldout.jsonl").read_text() != ""


def test_a_bf16_run_computes_as_the_saved_folder_does(tmp_path):
    trainer = tiny_trainer(tmp_path, with_options(dtype="bf16", steps=3))
    trainer.run()
    model = trainer.model
    rows = by_name(model_parameters(model.config))
    assert all(p.dtype == (torch.float32 if rows[n].is_fp32 else torch.bfloat16) for n, p in model.named_parameters())
    assert any(rows[name].is_fp32 for name, _ in model.named_parameters())
    assert all(weight.dtype == torch.float32 for weight in trainer.masters.weights.values())
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    prompts = [list(range(1, 80)), [5, 9, 200]]
    assert loaded.dtype == torch.bfloat16
    for kept, found in zip(model.logits(prompts), loaded.logits(prompts)):
        assert torch.equal(kept.detach(), found.detach())


def test_updates_below_bf16s_resolution_are_not_lost(tmp_path):
    trainer = tiny_trainer(tmp_path, with_options(dtype="bf16", optimizer="adamw", learning_rate=1e-6, steps=3))
    weight, rounded = trainer.masters.weights["head.weight"], dict(trainer.model.named_parameters())["head.weight"]
    before = weight.detach().clone(), rounded.detach().clone()
    trainer.run()
    assert not torch.equal(weight, before[0]) and torch.equal(rounded, weight.detach().bfloat16())
    assert (rounded == before[1]).float().mean() > 0.9


def test_bf16_learns_what_fp32_learns(tmp_path):
    found = {}
    for dtype in ("fp32", "bf16"):
        trainer = tiny_trainer(new_folder(tmp_path / dtype), with_options(dtype=dtype, steps=12))
        trainer.run()
        found[dtype] = [line.loss for line in trainer.metrics.read()]
    assert found["bf16"] != found["fp32"]
    assert max(abs(a - b) for a, b in zip(*found.values())) < 0.05


def gradients_of(config: TrainConfig, folder) -> dict[str, torch.Tensor]:
    trainer = tiny_trainer(folder, config)
    trainer._gradients(trainer.source.step(0))
    return {name: weight.grad for name, weight in trainer.masters.weights.items() if weight.grad is not None}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_step_is_the_ordered_sum_over_its_passes(tmp_path, dtype):
    config = with_options(dtype=dtype, micro_batch_tokens=80)
    found = gradients_of(config, tmp_path)
    trainer = tiny_trainer(tmp_path, config)
    rows = trainer.source.step(0)
    parts = rows.micro_batches(80)
    assert len(parts) > 2 and [length for part in parts for length in part.lengths] == list(rows.lengths)
    total: dict[str, torch.Tensor] = {}
    for part in parts:
        alone = tiny_trainer(tmp_path, config)
        alone.model(part.tokens_T, part.batch, targets=Targets(part.targets_T, 100, denominator=192)).total.backward()
        for name, parameter in alone.model.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                total[name] = gradient if name not in total else total[name] + gradient
    assert total.keys() == found.keys()
    for name, gradient in total.items():
        assert torch.equal(gradient, found[name]), name


def test_one_pass_agrees_with_several(tmp_path):
    whole, parts = (gradients_of(with_options(micro_batch_tokens=size), tmp_path) for size in (None, 80))
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in whole.values()))
    for name, gradient in whole.items():
        assert float((gradient - parts[name]).double().norm()) <= ONE_PASS * norm, name


@pytest.mark.parametrize("kinds", [("all",), ("kda",), ("mla", "moe")])
def test_recomputation_changes_no_bit(tmp_path, kinds):
    plain = gradients_of(CONFIG, tmp_path)
    again = gradients_of(with_options(recompute={"kinds": kinds}), tmp_path)
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


def test_documents_are_not_cut_at_the_edges_of_passes():
    rows = packer_of(tiny_store(), CONFIG).step(1)
    for most in (1, 50, 80, 1000):
        parts = rows.micro_batches(most)
        assert torch.equal(torch.cat([part.tokens_T for part in parts]), rows.tokens_T)
        assert all(len(part.lengths) == 1 or sum(part.lengths) <= most for part in parts)
    assert len(rows.micro_batches(1)) == len(rows.lengths)


def test_a_ramp_reads_every_row_once():
    sizes = BatchSizes(90, first_tokens=30, ramp_steps=4)
    ramped = Packer(tiny_store(), sizes, max_document_tokens=50, seed=1)
    even = Packer(tiny_store(), BatchSizes(90), max_document_tokens=50, seed=1)
    assert [ramped.step(step).tokens_T.shape[0] for step in range(6)] == [30, 45, 60, 75, 90, 90]
    read = torch.cat([ramped.step(step).tokens_T for step in range(6)])
    same = torch.cat([even.step(step).tokens_T for step in range(5)])
    assert torch.equal(read[:390], same[:390])


def test_rounding_by_chance_keeps_the_mean_and_repeats():
    x = torch.tensor([1.0 + 2.0**-10, -3.3, 1e-30, 0.0, 2.5])
    drawn = torch.stack([round_by_chance(x, generator_of(1, step, 0)).double() for step in range(4000)])
    spacing = torch.tensor([2.0**-7, 2.0**-6, 2.0**-107, 0.0, 2.0**-6], dtype=torch.float64)
    assert ((drawn.mean(0) - x.double()).abs() <= 0.05 * spacing).all()
    assert len(set(drawn[:, 0].tolist())) == 2 and set(drawn[:, 4].tolist()) == {2.5}
    assert torch.equal(round_by_chance(x, generator_of(1, 7, 2)), round_by_chance(x, generator_of(1, 7, 2)))
    odd = torch.tensor([float("inf"), float("-inf"), float("nan")])
    assert torch.equal(round_by_chance(odd, generator_of(0, 0, 0)), odd.bfloat16()) or odd.isnan().any()
    assert round_by_chance(odd, generator_of(0, 0, 0)).isnan().tolist() == [False, False, True]


def test_muon_by_heads_is_muon_of_each_head():
    generator = torch.Generator().manual_seed(2)
    whole = torch.nn.Parameter(torch.randn(30, 16, generator=generator))
    heads = [torch.nn.Parameter(part.clone()) for part in whole.detach().unflatten(0, (3, 10))]
    whole.grad = torch.randn(30, 16, generator=generator)
    for part, grad in zip(heads, whole.grad.unflatten(0, (3, 10))):
        part.grad = grad.clone()
    Muon([whole], lr=0.1, momentum=0.9, weight_decay=0.01, heads={whole: 3}).step()
    Muon(heads, lr=0.1, momentum=0.9, weight_decay=0.01).step()
    torch.testing.assert_close(whole.detach(), torch.cat([part.detach() for part in heads]), rtol=2e-2, atol=2e-3)


def test_heads_are_found_in_the_table():
    rows = by_name(model_parameters(family_of("kimi_linear").tiny))
    found = {name.rpartition("module.")[2]: heads_of(row) for name, row in rows.items() if "sublayers.0." in name}
    assert (found["q.weight"], found["v.weight"], found["b.weight"], found["o.weight"]) == (3, 3, 1, 1)


@pytest.mark.parametrize("name", ["conv_weight", "A_log", "dt_bias", "router_bias", "embed.weight", "norm.weight"])
def test_muon_never_takes_what_is_no_matrix(name):
    for family in ("kimi_linear", "qwen3_next", "nemotron_h", "bailing_moe_linear"):
        for row in model_parameters(family_of(family).tiny):
            if row.name.endswith(name):
                assert row.muon is None, (family, row.name)


def test_a_cosine_ends_at_its_floor():
    config = with_options(steps=101, schedule="cosine", warmup_fraction=0.1, final_rate_fraction=0.2)
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[10] == 1.0 and factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.2) and factors[55] == pytest.approx(0.6, abs=0.01)


def test_averaged_weights_are_the_mean_of_what_was_along_the_way(tmp_path):
    config = with_options(average={"kind": "merge", "fraction": 0.5, "every": 2}, steps=8)
    trainer, seen = tiny_trainer(tmp_path, config), []
    trainer.run(lambda line: seen.append(trainer.masters.weights["head.weight"].detach().clone()))
    expected = torch.stack([seen[5], seen[7]]).double().mean(0)
    trainer.keep_final_weights()
    assert trainer.average.count == 2
    torch.testing.assert_close(trainer.model.head.weight.detach().double(), expected, rtol=1e-6, atol=1e-7)


def test_held_out_scores_use_the_averaged_weights_and_give_the_others_back(tmp_path):
    trainer = tiny_trainer(tmp_path, with_options(average={"kind": "ema", "decay": 0.5}, dtype="bf16", steps=3))
    trainer.run()
    before = {name: weight.detach().clone() for name, weight in trainer.masters.weights.items()}
    with trainer.final_weights():
        inside = trainer.model.head.weight.detach().clone()
    assert torch.equal(inside, trainer.average.mean["head.weight"].bfloat16())
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.masters.weights.items())
    assert torch.equal(trainer.model.head.weight, before["head.weight"].bfloat16())


class Poisoned(Trainer):
    """Its gradient becomes NaN when it reads certain rows."""

    wrong: tuple[int, ...] = ()

    def _gradients(self, rows):
        sums = super()._gradients(rows)
        if any(torch.equal(rows.tokens_T, self.source.step(step).tokens_T) for step in self.wrong):
            next(iter(self.masters.weights.values())).grad.fill_(math.nan)
        return sums


def poisoned(folder, config, *wrong: int) -> Poisoned:
    model = initialize(Model(RECIPE.model_config_of(300, 0)), config.seed)
    trainer = Poisoned(model, packer_of(tiny_store(), config), config, folder)
    trainer.wrong = wrong
    return trainer


def test_a_step_that_is_not_finite_stops_the_run_and_says_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match=r"step 6: loss .*nan.*spikes.action"):
        poisoned(tmp_path, CONFIG, 5).run()
    assert finished_states(tmp_path / "checkpoints")[-1].name == "step-00000004"


def test_a_skipped_step_changes_no_weight_and_is_said(tmp_path):
    config, said = with_options(spikes={"action": "skip"}), []
    trainer, seen = poisoned(tmp_path, config, 5), []
    trainer.run(lambda line: seen.append(trainer.model.head.weight.detach().clone()), say=said.append)
    assert torch.equal(seen[5], seen[4]) and not torch.equal(seen[6], seen[5])
    found = trainer.metrics.read()
    assert [line.step for line in found if line.spike] == [6] and len(found) == config.steps
    assert len(said) == 1 and "step 6" in said[0] and "left out" in said[0]


def test_a_run_that_goes_back_passes_over_the_data_of_the_spike(tmp_path):
    config, said = with_options(spikes={"action": "rollback"}), []
    trainer = poisoned(tmp_path, config, 5)
    trainer.run(say=said.append)
    assert trainer.skipped_data == 2 and trainer.finished_steps == config.steps
    assert len(said) == 1 and "back to step 4" in said[0]
    assert [line.step for line in trainer.metrics.read()] == list(range(1, config.steps + 1))


def test_too_many_spikes_end_a_run(tmp_path):
    config = with_options(spikes={"action": "skip", "most": 2})
    with pytest.raises(ConfigError, match="spike number 3"):
        poisoned(tmp_path, config, 1, 2, 3, 4).run()


def test_router_biases_follow_the_load(tmp_path):
    config = with_options(router={"bias_rate": 0.01}, steps=2)
    trainer = tiny_trainer(tmp_path, config)
    (name,) = [name for name in trainer.masters.weights if name.endswith("router_bias")]
    trainer.update(0)
    (watch,) = trainer.routing._watches.values()
    counts, bias = watch.counts_E.double(), trainer.masters.weights[name].detach()
    assert counts.sum() == 192 * 2
    torch.testing.assert_close(bias.double(), 0.01 * torch.sign(counts.mean() - counts), rtol=1e-6, atol=1e-9)


def test_a_z_loss_pulls_logits_down_and_has_the_gradient_of_its_formula():
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 1).double()
    tokens, batch = torch.arange(1, 31), Batch.packed([30])
    losses = model(tokens, batch, targets=Targets(tokens.roll(-1), 7, z_weight=0.1))
    losses.total.backward()
    found = model.head.weight.grad.clone()
    model.zero_grad()
    logits = model.head_logits(model(tokens, batch))
    z = logits.logsumexp(-1).square().mean()
    plain = torch.nn.functional.cross_entropy(logits, tokens.roll(-1))
    (plain + 0.1 * z).backward()
    torch.testing.assert_close(model.head.weight.grad, found, rtol=1e-9, atol=1e-12)
    assert losses.z.item() == pytest.approx(z.item()) and losses.next_token.item() == pytest.approx(plain.item())


def test_multi_token_prediction_trains_its_own_modules_within_each_document():
    model = initialize(Model(family_of("nemotron_h").tiny), 1).double()
    lengths = (9, 1, 14)
    tokens = torch.randint(0, 97, (24,), generator=torch.Generator().manual_seed(3))
    targets = torch.randint(0, 97, (24,), generator=torch.Generator().manual_seed(4))
    losses = model(tokens, Batch.packed(lengths), targets=Targets(targets, 100, mtp_weight=0.5))
    losses.total.backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n.startswith("mtp.0.merge"))
    total, first = 0.0, 0
    for length in lengths:  # one document after another, row by row
        own, goal = tokens[first : first + length], targets[first : first + length]
        first += length
        if length < 2:
            continue
        hidden = model.hidden(own, Batch.packed([length]))
        for step in range(model.num_mtp_steps):
            read = torch.cat([goal[step:], goal.new_zeros(min(step, length))])
            hidden = model.predict_next(read, hidden.next_TD, Batch.packed([length]), step=step)
            rows = max(0, length - 1 - step)  # the last ones have no target so far ahead
            logits = model.head_logits(hidden.head_TD[:rows], step=step)
            total += torch.nn.functional.cross_entropy(logits, goal[1 + step :], reduction="sum")
    assert model.num_mtp_steps > 1
    assert losses.mtp.item() == pytest.approx(total.item() / 24 / model.num_mtp_steps, rel=1e-9)
    assert losses.total.item() == pytest.approx(losses.next_token.item() + 0.5 * losses.mtp.item())
