"""Figures of what is inside a layer: each against a plain computation of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from test_standalone import DIM, OPTIONS
from tiny_run import CONFIG, RECIPE, tiny_store, tiny_trainer

import hyla.layers
from hyla.data.packing import PackedRows
from hyla.layers.moe import MoE
from hyla.layers.protocol import Scores
from hyla.models.formats.registry import families
from hyla.models.initialize import initialize
from hyla.models.kinds import KINDS
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.metrics import SublayerStatistics
from hyla.train.routing import Load
from hyla.train.sources import packer_of
from hyla.train.statistics import QUANTILES, attention_figures, first_rows, quantiles, statistics

RECURRENT = ("KDA", "GLA", "GatedDelta", "LinearAttention", "Lightning", "Mamba2")
SOFTMAX = ("SoftmaxAttention", "MLA", "SparseMLA")
DECAYING = {"KDA", "GLA", "GatedDelta", "Lightning", "Mamba2"}
GATED = {"KDA", "GLA", "GatedDelta", "Lightning", "Mamba2"}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(name, **options):
    torch.manual_seed(3)
    return getattr(hyla.layers, name)(DIM, init_std=0.2, **{**OPTIONS[name], **options})


@torch.no_grad()
@pytest.mark.parametrize("name", RECURRENT)
def test_the_memory_of_statistics_is_the_one_that_serving_caches(name):
    layer, x = layer_of(name), rows(128 + 64, DIM)
    inside = layer.mixer.inside(x, Batch.packed([128, 64]))
    cache = layer.new_cache(2)
    layer(x, lengths=[128, 64], cache=cache)
    anchor_NHKV = cache.tensors["anchor"][1:, ..., : inside.state_NHKV.shape[-1]]
    assert torch.equal(inside.state_NHKV, anchor_NHKV) and inside.state_NHKV.abs().max() > 0
    assert inside.scores is None
    assert (inside.log_decay is not None) == (name in DECAYING) and (inside.gate is not None) == (name in GATED)
    assert (inside.beta_TH is not None) == (name in ("KDA", "GatedDelta"))
    if inside.log_decay is not None:
        assert inside.log_decay.shape[0] in (192, 1) and (inside.log_decay <= 0).all()
    if inside.beta_TH is not None:
        assert ((inside.beta_TH > 0) & (inside.beta_TH < 1)).all()


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(DECAYING))
def test_the_memory_decays_by_what_statistics_say(name):
    """One row more, whose key reads nothing: only the decay is left of a state."""
    layer = layer_of(name)
    x = rows(65, DIM)
    before, after = (layer.mixer.inside(x[:count], Batch.packed([count])) for count in (64, 65))
    log_decay = after.log_decay[-1]
    left = log_decay.exp()[:, None, None] if log_decay.ndim == 1 else log_decay.exp()[:, :, None]
    added = after.state_NHKV[0] - before.state_NHKV[0] * left
    assert torch.linalg.matrix_rank(added.double(), rtol=1e-4).max() <= 1, "a row writes one outer product"


@torch.no_grad()
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_mixers_say_whom_their_rows_look_at(name):
    layer = layer_of(name)
    inside = layer.mixer.inside(rows(90, DIM), Batch.packed([20, 70]))
    scores = inside.scores
    assert scores.q_THK.shape[0] == scores.k_TGK.shape[0] == 90 and inside.state_NHKV is None
    assert (scores.positions_TS is not None) == (name == "SparseMLA")


def plain_figures(scores: Scores, lengths) -> dict[str, float]:
    """Row by row, in Python."""
    largest, first, learnt, offset = 0.0, [], [], 0
    group = scores.q_THK.shape[1] // scores.k_TGK.shape[1]
    for length in lengths:
        for row in range(length):
            seen = [
                key
                for key in range(row + 1)
                if (scores.window is None or key > row - scores.window)
                and (scores.positions_TS is None or key in scores.positions_TS[offset + row].tolist())
            ]
            for head in range(scores.q_THK.shape[1]):
                keys = scores.k_TGK[[offset + key for key in seen], head // group]
                logits = scores.scale * (keys @ scores.q_THK[offset + row, head])
                largest = max(largest, float(logits.abs().max()))
                if scores.sinks_H is not None:
                    logits = torch.cat([logits, scores.sinks_H[head, None]])
                weights = logits.softmax(0)
                learnt += [float(weights[-1])] if scores.sinks_H is not None else []
                first += [float(weights[0])] if row >= 64 and 0 in seen else []
        offset += length
    found = {"logit_max": largest}
    for name, values in (("sink_mass", first), ("learnt_sink_mass", learnt)):
        if values:
            found[name] = sum(values) / len(values)
    return found


@pytest.mark.parametrize("kind", ["all", "window", "sinks", "window of 30", "selected"])
def test_attention_figures_are_those_of_the_plain_formula(kind):
    lengths, heads, keys = (70, 3, 81), 6, 2
    total = sum(lengths)
    scores = Scores(
        rows(total, heads, 5).double(),
        rows(total, keys, 5, seed=1).double(),
        0.7,
        window={"window": 75, "window of 30": 30}.get(kind),
        sinks_H=rows(heads, seed=2).double() if kind == "sinks" else None,
        positions_TS=selected(lengths, 9) if kind == "selected" else None,
    )
    found, expected = attention_figures(scores, Batch.packed(lengths)), plain_figures(scores, lengths)
    assert found.keys() == expected.keys() and ("sink_mass" in found) == (kind != "window of 30")
    assert ("learnt_sink_mass" in found) == (kind == "sinks")
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


def selected(lengths, count: int) -> torch.Tensor:
    """Some positions of each row, its own and sometimes the first among them, then -1."""
    generator, table = torch.Generator().manual_seed(4), []
    for length in lengths:
        for row in range(length):
            chosen = {row, *torch.randint(0, row + 1, (count - 1,), generator=generator).tolist()}
            table.append(sorted(chosen) + [-1] * (64 - len(chosen)))
    return torch.tensor(table, dtype=torch.int32)


def test_quantiles_are_in_order_and_sample_what_is_very_large():
    assert quantiles(torch.arange(101.0)) == pytest.approx([100 * q for q in QUANTILES])
    assert quantiles(torch.full((5, 1 << 20), 0.25)) == [0.25] * len(QUANTILES)


def test_first_rows_cut_a_document_and_leave_the_rest():
    packed = PackedRows(torch.arange(10), torch.arange(1, 11), (3, 4, 3))
    cut = first_rows(packed, 5)
    assert cut.lengths == (3, 2) and cut.tokens_T.tolist() == [0, 1, 2, 3, 4]
    assert first_rows(packed, 3).lengths == (3,) and first_rows(packed, 99).lengths == (3, 4, 3)


def test_the_figures_of_a_model_are_those_of_its_taps():
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 3)
    step = packer_of(tiny_store(), CONFIG).step(0)
    lines, taps = statistics(model, 7, step, 100), []
    first = first_rows(step, 100)
    with torch.no_grad():
        hidden = model(first.tokens_T, first.batch, observer=taps.append)
        logits = model.head_logits(hidden)
    assert [(line.step, line.sublayer, line.kind) for line in lines] == [
        (7, 0, "kda"), (7, 1, "mlp"), (7, 2, "mla"), (7, 3, "moe"), (7, 4, "head"),
    ]  # fmt: skip
    for tap, line in zip(taps, lines):
        assert line.figures["output_rms"] == pytest.approx(float(tap.output_TD.double().square().mean().sqrt()))
        assert line.figures["stream_max"] == float(tap.stream_TD.abs().max())
    kda, _, mla, moe, head = (line.figures for line in lines)
    with torch.no_grad():
        inside = taps[0].sublayer.mixer.inside(taps[0].normed_TD, first.batch)
    norms = [float(state.double().norm()) for state in inside.state_NHKV.flatten(0, 1)]
    assert kda["state_norm_max"] == pytest.approx(max(norms))
    assert kda["state_norm_mean"] == pytest.approx(sum(norms) / len(norms))
    assert kda["beta_mean"] == pytest.approx(float(inside.beta_TH.double().mean()))
    assert kda["decay_quantiles"] == sorted(kda["decay_quantiles"]) and kda["decay_quantiles"][0] >= 0
    assert kda["decay_quantiles"][-1] == float(inside.log_decay.max().exp()) <= 1
    assert mla["logit_max"] > 0 and moe["router_logit_max"] > 0
    assert head["logit_max"] == pytest.approx(float(logits.abs().max()))
    assert head["logsumexp_mean"] == pytest.approx(float(logits.double().logsumexp(-1).mean()))


def test_every_family_and_every_kind_of_mixer_has_figures():
    seen = {}
    for family in families():
        model = initialize(Model(family.tiny), 1)
        tokens = torch.randint(model.config.vocab_size, (150,), generator=torch.Generator().manual_seed(2))
        for line in statistics(model, 1, PackedRows(tokens, tokens, (140, 10)), 145):
            assert json.loads(json.dumps(line.figures)) == line.figures
            assert all(value == value for value in line.figures.values())
            seen.setdefault(line.kind, set()).update(line.figures)
    mixers = {name for name, kind in KINDS.items() if kind.operator != "experts"} & seen.keys() - {"mlp", "moe"}
    assert mixers >= {"kda", "gated_delta", "lightning", "mamba2", "softmax", "mla", "sparse_mla"}
    for name in mixers:
        assert seen[name] & {"state_norm_mean", "logit_max"}, name
    assert "sink_mass" in seen["mla"] and "learnt_sink_mass" in seen["softmax"]


def test_the_routers_of_a_run_are_looked_at_and_put_back(tmp_path):
    config = CONFIG.model_copy(update={"steps": 2})
    config = type(config)(**{**config.model_dump(), "statistics": {"every": 2, "rows": 64}})
    trainer = tiny_trainer(tmp_path, config)
    watches = []
    trainer.run(lambda line: watches.append(0))
    lines = [
        SublayerStatistics(**json.loads(line)) for line in (tmp_path / "statistics.jsonl").read_text().splitlines()
    ]
    (moe,) = (line for line in lines if line.kind == "moe")
    assert moe.step == 2 and moe.figures["busiest_expert"] == trainer.metrics.read()[-1].expert_load
    assert 0 <= moe.figures["idle_experts"] < RECIPE.num_experts
    assert all(module.watch is None for module in trainer.model.modules() if isinstance(module, MoE))


def test_the_example_of_the_docs_reads_a_run(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "training-progress.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    folder = tmp_path / "runs" / "notes"
    folder.mkdir(parents=True)
    config = type(CONFIG)(**{**CONFIG.model_dump(), "steps": 4, "statistics": {"every": 2, "rows": 64}})
    tiny_trainer(folder, config).run()
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/training-progress.md", "exec"), {"__name__": "example"})
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["2", "0"], ["4", "0"]]


def test_the_page_names_every_figure():
    page = (Path(__file__).parents[2] / "docs" / "training-progress.md").read_text(encoding="utf-8")
    model = initialize(Model(RECIPE.model_config_of(300, 0)), 3)
    loads = [Load(name, 1.0, 0) for name, module in model.named_modules() if isinstance(module, MoE)]
    lines = statistics(model, 1, packer_of(tiny_store(), CONFIG).step(0), 150, loads)
    names = {name for line in lines for name in line.figures} | {"learnt_sink_mass"}
    assert len(names) > 12 and all(f"`{name}`" in page for name in names)
