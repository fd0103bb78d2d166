"""What users of other trainers complain about, hybrids' above all, as tests (facts of which issues: in each docstring).

Elsewhere: masks of thinking turns (tests/data/test_family_masks.py), multi-token prediction's loss and Muon's choice
(test_precision_and_passes.py), kills and resumes (test_kill_drills.py, test_broken_runs.py).
"""

import json

import pytest
import torch
from matrix.mixers import MIXERS, VOCAB, model_of
from tiny_run import CONFIG, RECIPE, tiny_store, tiny_trainer, write_text_folder
from tiny_text import byte_tokenizer
from tokenizers import processors

import hyla
from hyla.checkpoints import Tokenizer, load_model, load_tokenizer, save_model
from hyla.data.batch_sizes import BatchSizes
from hyla.data.encoding import Encoder
from hyla.data.packing import PackedRows
from hyla.data.records import Record
from hyla.layers.parameters import by_name
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.ops.exact.primitives import l2_norm
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.model_source import FamilySource, ModelSource
from hyla.train.optimizer import Optimizer
from hyla.train.run import RunRequest, open_run
from hyla.train.run_data import DataSource
from hyla.train.sources import packer_of

DTYPES = ("float32", "bfloat16")
FAMILIES = sorted({family.name for family in families()} - {"hyla"})


def quiet(line):
    pass


def with_options(**options):
    return TrainConfig(**{**CONFIG.model_dump(), **options})


def ids(count, seed, vocab=VOCAB):
    return torch.randint(vocab, (count,), generator=torch.Generator().manual_seed(seed))


def of_one_document(model, documents, place):
    """(logits, gradient of the document's own summed loss with respect to its embedded inputs) of one of several packed
    documents."""
    lengths = [len(one) for one in documents]
    first = sum(lengths[:place])
    here = slice(first, first + lengths[place])
    taps = []
    hidden = model(torch.cat(documents), Batch.packed(lengths), observer=taps.append)
    logits = model.head_logits(hidden[here])
    targets = documents[place].roll(-1)
    loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, taps[0].stream_TD)
    return logits.detach(), gradient[here]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixer", MIXERS)
def test_packing_leaks_nothing_whatever_stands_beside_a_document(mixer, dtype):
    """transformers #46093, #44717, slime #1686: states, convolutions or attention went on over a document's edge."""
    model, own = model_of(mixer, dtype), ids(83, 1)
    alone = of_one_document(model, [own], 0)
    for before, after in (((5,), (70,)), ((64, 1, 3), ()), ((130,), (2, 67)), ((), (200,))):
        documents = [*(ids(n, 10 + n) for n in before), own, *(ids(n, 50 + n) for n in after)]
        found = of_one_document(model, documents, len(before))
        assert torch.equal(found[0], alone[0]) and torch.equal(found[1], alone[1])
    assert alone[1].abs().max() > 0


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_leak_would_be_seen(mixer):
    """The test above can fail: two documents run as one differ."""
    model, other, own = model_of(mixer, "float32"), ids(30, 2), ids(40, 1)
    apart = model(torch.cat([other, own]), Batch.packed([30, 40]))[30:]
    together = model(torch.cat([other, own]), Batch.packed([70]))[30:]
    assert not torch.equal(apart, together)


def test_a_step_has_no_padding():
    """transformers #46773 (left padding changes logits), ms-swift #9565 (no packing on hybrids)."""
    store = tiny_store()
    for step in range(4):
        rows = packer_of(store, CONFIG).step(step)
        assert sum(rows.lengths) == rows.tokens_T.shape[0] == CONFIG.batch_tokens
        assert all(length > 0 for length in rows.lengths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_l2_norm_of_a_zero_row_has_a_finite_gradient(each_backend, dtype):
    """maxtext #5295: the norm's derivative at zero."""
    x = torch.zeros(3, 2, 7, dtype=dtype)
    x[1] = 1.0
    x.requires_grad_()
    y = l2_norm(x)
    y.float().square().sum().add(y.float().sum()).backward()
    assert not y[0].any() and x.grad.isfinite().all()


@pytest.mark.parametrize("mixer", ["gated_delta", "kda", "gla", "lightning", "mamba2", "linear"])
def test_a_document_of_zero_rows_has_finite_gradients(mixer):
    """verl #6319, ms-swift #8435: NaN in fine-tuning."""
    model = initialize(Model(model_of(mixer, "float32").config), 1, std=0.3)
    with torch.no_grad():
        model.embed.weight[3] = 0.0
    tokens = torch.full((70,), 3)
    losses = model(tokens, Batch.packed([67, 3]), targets=Targets(tokens.roll(1), 16))
    losses.total.backward()
    assert losses.total.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


class SomeLearnt:
    """A step of three documents; of the first and the last nothing is to be learnt."""

    sizes = BatchSizes(150)

    def step(self, step):
        learnt = torch.zeros(150, dtype=torch.bool)
        learnt[60:75] = True
        tokens = ids(150, step, 300)
        return PackedRows(tokens, tokens.roll(-1), (50, 50, 50), learnt)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_passes_without_a_learnt_token_are_no_nan(tmp_path, dtype):
    """verl #6319, ms-swift #8435: a loss divided by no tokens."""
    found = []
    for most in (None, 50):
        model = initialize(Model(RECIPE.model_config_of(300, 0)), 1)
        trainer = Trainer(model, SomeLearnt(), with_options(dtype=dtype, micro_batch_tokens=most), tmp_path)
        result = trainer.update(0)
        assert result.fault is None and result.losses["loss"] > 1
        found.append(result)
    assert found[0].losses["loss"] == pytest.approx(found[1].losses["loss"], rel=1e-6)
    assert found[0].norm == pytest.approx(found[1].norm, rel=1e-2 if dtype == "bf16" else 1e-5)


FP32_NAMES = ("A_log", "dt_bias", "router", "router_bias", "decay_bias")


@pytest.mark.parametrize("family", FAMILIES)
def test_decays_and_routers_are_never_rounded(tmp_path, family):
    """Automodel #2484, Megatron #3634, accelerate #3985: A_log in bf16."""
    config = family_of(family).tiny
    rows = [row for row in model_parameters(config) if row.name.rpartition(".")[2] in FP32_NAMES]
    assert all(row.is_fp32 for row in rows)
    model = initialize(Model(config), 3, std=0.2)
    source = packer_of(tiny_store(), CONFIG)
    trainer = Trainer(model, source, with_options(dtype="bf16"), tmp_path)
    parameters = dict(trainer.model.named_parameters())
    assert all(parameters[row.name].dtype == torch.float32 for row in rows)
    assert all(parameters[row.name] is trainer.masters.weights[row.name] for row in rows)
    if not any(row.name.endswith("A_log") for row in rows):
        return
    tokens, batch = ids(70, 1, config.vocab_size), Batch.packed([70])
    with torch.no_grad():
        before = trainer.model(tokens, batch)
        for row in rows:
            if row.name.endswith("A_log"):
                own = parameters[row.name]
                moved = own * (1 + 2.0**-11) + 2.0**-11  # less than bf16 could hold beside it
                own.copy_(torch.where(moved.bfloat16() == own.bfloat16(), moved, own))
        after = trainer.model(tokens, batch)
    save_model(trainer.model, tmp_path / "model")
    kept = dict(load_model(tmp_path / "model").named_parameters())
    assert all(torch.equal(kept[row.name], parameters[row.name]) for row in rows)
    assert not torch.equal(before, after)


def saved_bytes(model, lengths=(130, 70)):
    """Bytes that a forward pass keeps for the backward pass, without the parameters."""
    held = {}
    parameters = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    kept = []  # or storages would be given to others
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), keep(t))[1], lambda t: t):
        tokens = ids(sum(lengths), 1)
        model(tokens, Batch.packed(lengths)).float().sum()
    return sum(held.values())


@pytest.mark.parametrize("mixer", MIXERS)
def test_recomputation_reaches_every_mixer(mixer):
    """Automodel #3192: it skipped the linear layers, which then held 176 GiB."""
    model = initialize(Model(model_of(mixer, "float32").config), 1, std=0.3)
    whole = saved_bytes(model)
    for sublayer in model.sublayers:
        sublayer.is_recomputed = sublayer.is_mixer
    mixers_again = saved_bytes(model)
    for sublayer in model.sublayers:
        sublayer.is_recomputed = True
    streams = (len(model.sublayers) + 2) * 200 * model.config.hidden_dim * 4
    assert saved_bytes(model) < mixers_again < whole
    assert saved_bytes(model) <= 2 * streams


def mtp_trainer(folder, **options):
    config = family_of("nemotron_h").tiny.model_copy(update={"vocab_size": 300})
    train = with_options(steps=2, **options)
    return Trainer(initialize(Model(config), 1), packer_of(tiny_store(), train), train, folder)


def test_multi_token_prediction_trains_and_is_still_there_in_the_saved_folder(tmp_path):
    """ms-swift #9802, unsloth #11042: lost on export; unsloth #6557, verl #6947: inert in training."""
    trainer = mtp_trainer(tmp_path, mtp_weight=0.3)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.mtp.named_parameters()}
    trainer.run()
    after = dict(trainer.model.mtp.named_parameters())
    still = {name for name in before if torch.equal(before[name], after[name])}
    # A selection bias has no gradient, and an expert that no token chose has none.
    assert all("router_bias" in name or "experts" in name for name in still), still
    save_model(trainer.model, tmp_path / "model")
    loaded = dict(load_model(tmp_path / "model").mtp.named_parameters())
    assert loaded.keys() == after.keys() and after
    assert all(torch.equal(loaded[name], after[name]) for name in after)


def test_multi_token_prediction_that_is_not_trained_stays_and_is_said(tmp_path):
    trainer = mtp_trainer(tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.mtp.named_parameters()}
    said = []
    trainer.run(say=said.append)
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.model.mtp.named_parameters())
    assert len(said) == 1 and "multi-token prediction" in said[0] and "mtp_weight" in said[0]


NO_MATRICES = ("A_log", "dt_bias", "conv", "norm", "bias", "embed", "head.weight", "sinks", ".D")


@pytest.mark.parametrize("family", FAMILIES)
def test_muon_takes_single_projections_and_nothing_else(family):
    """xtuner #2030, miles #3096, maxtext #4843: Muon on fused projections or convolutions."""
    config = family_of(family).tiny
    model, rows = Model(config), by_name(model_parameters(config))
    weights = dict(model.named_parameters())
    optimizer = Optimizer(weights, model_parameters(config), with_options(optimizer="muon"))
    taken = [optimizer.names[w] for group in optimizer.parts[-1].param_groups for w in group["params"]]
    assert taken and not any(part in name for name in taken for part in NO_MATRICES)
    for name in taken:
        assert weights[name].ndim in (2, 3) and rows[name].muon is not None
        # One axis group of outputs each: queries, keys and values stand in tensors of their own.
        assert not any(axis.name == "segments" for dims in rows[name].dims for axis in dims)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_at_learning_rate_zero_nothing_drifts(tmp_path, dtype, optimizer):
    """open-instruct #1473: the loss moved at learning rate 0."""
    still = {"learning_rate": 0.0, "matrix_learning_rate": 0.0}
    trainer = tiny_trainer(tmp_path, with_options(dtype=dtype, optimizer=optimizer).model_copy(update=still))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    masters = {name: weight.detach().clone() for name, weight in trainer.masters.weights.items()}
    losses = []
    for _ in range(4):
        losses.append(trainer.update(0).losses["loss"])
    assert len(set(losses)) == 1
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.model.named_parameters())
    assert all(torch.equal(weight, masters[name]) for name, weight in trainer.masters.weights.items())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_engine_gives_the_log_probabilities_that_the_trainer_computes(tmp_path, dtype):
    """verl #2996: what rolls out is another model than what is trained."""
    trainer = tiny_trainer(tmp_path, with_options(dtype=dtype, steps=3))
    trainer.run()
    save_model(trainer.model, tmp_path / "model", tokenizer=byte_tokenizer())
    prompt = ids(75, 1, 250).tolist()
    engine = hyla.Engine(tmp_path / "model", memory=24 << 20)
    greedy = hyla.SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, logprobs=1)
    (done,) = engine.generate([prompt], greedy)
    whole = [*prompt, *done.token_ids]
    with torch.no_grad():
        logits = trainer.model.head_logits(trainer.model(torch.tensor(whole), Batch.packed([len(whole)])))
    rows = logits[len(prompt) - 1 : -1].float()
    assert rows.argmax(-1).tolist() == list(done.token_ids)
    (again,) = hyla.load(tmp_path / "model").logits([whole])
    assert torch.equal(again[len(prompt) - 1 : -1].detach(), logits[len(prompt) - 1 : -1])


def test_a_text_has_one_first_token_even_if_its_tokenizer_adds_one():
    """marin #2064, lm-eval #2963: an extra BOS."""
    tokenizer = byte_tokenizer()
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", tokenizer.eos_token_id)]
    )
    assert tokenizer.encode("ab")[0] == tokenizer.eos_token_id
    (one,) = Encoder(tokenizer).encode([Record("r", "ab")])
    assert one.ids == [tokenizer.eos_token_id, *b"ab", tokenizer.eos_token_id]
    chat = Tokenizer(
        tokenizer.backend,
        special=tokenizer.special,
        chat_template="{{ eos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (one,) = Encoder(chat, is_chat=True).encode([Record("r", messages=messages)])
    assert one.ids == [tokenizer.eos_token_id, *b"ab"] and one.is_learnt == [False, False, True]


def test_a_run_leaves_tokenizer_and_template_byte_for_byte_as_they_were(tmp_path):
    """The issue: a tokenizer and a template are never changed silently."""
    template = "{# kept #}{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>\r\n{% endfor %}"
    tokenizer = byte_tokenizer(template)
    config = RECIPE.model_config_of(tokenizer.vocab_size, tokenizer.eos_token_id)
    save_model(initialize(Model(config), 1), tmp_path / "start", tokenizer=tokenizer)
    file = tmp_path / "start" / "tokenizer.json"
    # As others write it: in one line, with a truncation that a training left there.
    written = json.loads(file.read_text()) | {"truncation": None, "padding": None}
    file.write_text(json.dumps(written, ensure_ascii=False))
    request = RunRequest(
        model=ModelSource(start_from=str(tmp_path / "start")),
        data=DataSource(texts=str(write_text_folder(tmp_path / "texts")), heldout_share=0.2),
        train=with_options(steps=1),
    )
    run = open_run(tmp_path / "run", request, quiet)
    run.save_model(run.trained(quiet, quiet).model)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (run.model_folder / name).read_bytes() == (tmp_path / "start" / name).read_bytes()
    before, after = (load_tokenizer(folder) for folder in (tmp_path / "start", run.model_folder))
    assert before.special == after.special and before.settings.items() <= after.settings.items()


def test_a_tokenizer_that_was_changed_is_saved_as_it_is_now(tmp_path):
    byte_tokenizer().save(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.backend.add_special_tokens(["<|new|>"])
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").token_id("<|new|>") == tokenizer.vocab_size - 1


def test_every_family_trains_from_its_name(tmp_path):
    """A family whose layers have no backward pass would be found by its users."""
    for name in FAMILIES:
        model = ModelSource(family=FamilySource(name=name, vocab_size=300))
        config = model.model_config_of(300, 0)
        train = with_options(steps=1, dtype="bf16", recompute={"kinds": ("all",)})
        folder = tmp_path / name
        folder.mkdir()
        trainer = Trainer(model.made(config, 1), packer_of(tiny_store(), train), train, folder)
        result = trainer.update(0)
        assert result.fault is None and result.norm > 0, name
