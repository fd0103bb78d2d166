"""An adapter on a model: what it computes, what is trained, what stays as it was."""

import pytest
import torch
from adapted_models import adapted, error, model_of, prompt, stirred

import hyla
from hyla.adapters import LoraConfig, attach, merge, report
from hyla.adapters.coverage import coverage
from hyla.checkpoints import save_model
from hyla.errors import ConfigError
from hyla.models.formats.registry import families, family_of
from hyla.models.objective import Targets
from hyla.ops.batch import Batch

FAMILIES = tuple(sorted(family.name for family in families()))
TOLERANCE = 1e-4
"""Of logits by two arithmetics, as beside transformers."""
EVERYTHING = ("all-linear", "experts")


def targets_of(model):
    """Words that mean every matrix that a model has."""
    has_experts = any(sublayer.module.kind == "moe" for sublayer in model.config.sublayers)
    return EVERYTHING if has_experts else EVERYTHING[:1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_no_bit(family):
    model = model_of(family)
    ids = prompt(model, 70)
    (before,) = model.logits([ids])
    adapters = attach(model, LoraConfig(targets=targets_of(model), rank=2))
    (after,) = model.logits([ids])
    # The absorbed matrices of MLA are merged for each call and added to zeros, which changes none of their numbers.
    assert torch.equal(before, after)
    adapters.detach()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(before, model.logits([ids])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_the_same_alone_in_a_batch_packed_and_decoded(family):
    model, _ = adapted(family, torch.bfloat16, targets=targets_of(model_of(family)))
    ids, other = prompt(model, 70), prompt(model, 33, seed=1)
    (alone,) = model.train().logits([ids])
    with torch.inference_mode():
        assert torch.equal(alone, model.logits([other, ids])[1])
        assert torch.equal(alone[:40], model.logits([ids[:40]])[0])
        assert torch.equal(alone, model.pack().logits([ids])[0])
        engine = hyla.Engine(model, max_num_sequences=2, memory=1 << 26)
        (greedy,) = engine.generate([ids[:40]], hyla.SamplingParams(max_tokens=9, temperature=0.0, ignore_eos=True))
        whole = ids[:40] + list(greedy.token_ids)
        (logits,) = model.logits([whole])
        assert logits[39:-1].argmax(-1).tolist() == list(greedy.token_ids)
        engine.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_computes_nearly_the_same(family):
    model, adapters = adapted(family, targets=targets_of(model_of(family)))
    ids = prompt(model, 70)
    with torch.no_grad():
        (beside,) = model.logits([ids])
        (merged,) = merge(adapters).logits([ids])
        (base,) = model_of(family).logits([ids])
    assert error(merged, beside) < TOLERANCE
    assert error(base, beside) > 0.01
    assert not any(projection.terms for projection in model.projections())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_all_terms_and_nothing_else(family, dtype):
    model, adapters = adapted(family, dtype, targets=targets_of(model_of(family)))
    ids = prompt(model, 71)
    batch, tokens = Batch.packed([70]), torch.tensor(ids)
    model.train()(tokens[:-1], batch, targets=Targets(tokens[1:], chunk_rows=32)).total.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    silent = [
        name for name, parameter in adapters.trainable().items() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not silent


@pytest.mark.parametrize(
    "family, targets", [("qwen3_next", EVERYTHING), ("kimi_linear", EVERYTHING), ("llama", ("q", "kv"))]
)
@pytest.mark.parametrize("use_dora", [False, True])
def test_gradients_are_those_of_merged_weights_in_float64(family, targets, use_dora):
    targets = tuple(target for target in targets if not (use_dora and target == "experts"))
    model, adapters = adapted(family, torch.float64, targets=targets, use_dora=use_dora)
    ids = torch.tensor(prompt(model, 71))
    batch, wanted = Batch.packed([70]), Targets(ids[1:], chunk_rows=32)

    def loss():
        return model(ids[:-1], batch, targets=wanted).total

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapters.trainable().items():
        if use_dora and ".magnitudes." not in name:
            continue  # the norm is a constant of their gradient, so it is not the derivative
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            kept, step = parameter.clone(), 1e-4
            sides = [(parameter.copy_(kept + sign * step * direction), loss().item())[1] for sign in (1, -1)]
            parameter.copy_(kept)
        slope = (sides[0] - sides[1]) / (2 * step)
        assert slope == pytest.approx((parameter.grad * direction).sum().item(), rel=2e-3, abs=1e-6), name


def test_training_the_terms_lowers_the_loss_and_leaves_the_base_as_it_is():
    model = model_of("kimi_linear")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapters = attach(model, LoraConfig(rank=4, targets=("mixers", "experts"), modules_to_save=("norm",)))
    optimizer = torch.optim.AdamW(adapters.trainable().values(), lr=1e-2)
    ids = torch.tensor(prompt(model, 129))
    losses = []
    for _ in range(8):
        loss = model(ids[:-1], Batch.packed([128]), targets=Targets(ids[1:], chunk_rows=64)).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["norm.weight"]


def test_the_same_seed_draws_the_same_terms():
    first, again, other = (attach(model_of("qwen3"), LoraConfig(rank=2), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert all((not tensor.any()) == (".ups." in name) for name, tensor in first.items())


def test_coverage_says_what_is_adapted_and_what_is_not():
    model = model_of("kimi_linear")
    adapters = attach(model, LoraConfig(rank=2, targets=("q", "kv")))
    lines = report(adapters).splitlines()
    by_kind = {line.kind: line for line in coverage(model.config, adapters.terms)}
    assert (by_kind["KDA"].num_adapted, by_kind["KDA"].num_matrices) == (9, 27)
    assert by_kind["MoE experts"].num_adapted == 0 and "MoE experts 0 of 9 matrices (0% of their weights)" in lines
    trained = sum(parameter.numel() for parameter in adapters.parameters())
    assert f"{trained:,} weights in terms" in lines[-1]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"targets": ("q_proj",)}, "'q_proj' matches nothing; this model has .*softmax.q"),
        ({"targets": ("router",)}, "routers choose in fp32"),
        ({"targets": ("conv_weight",)}, "no matrix of a product"),
        ({"targets": ("head",)}, "modules_to_save"),
        ({"targets": ("q", "mamba2.*")}, r"'mamba2\.\*' matches nothing"),
        ({"targets": ("experts",), "use_dora": True}, "stack of experts"),
        ({"modules_to_save": ("softmax.o",)}, "choose one"),
        ({"modules_to_save": ("gated_delta.A_log",)}, "not one published module"),
        ({"modules_to_save": ("nothing",)}, "'nothing' matches nothing"),
    ],
)
def test_what_cannot_be_adapted_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        attach(model_of("qwen3_next"), LoraConfig(**fields))


def test_dropout_and_unknown_fields_are_refused():
    with pytest.raises(ConfigError, match="dropout is 0 by design"):
        LoraConfig(dropout=0.1)
    with pytest.raises(ConfigError, match="lora_rank"):
        LoraConfig(lora_rank=8)


def test_one_adapter_at_a_time_and_none_in_a_saved_model(tmp_path):
    model, adapters = adapted("llama")
    with pytest.raises(ConfigError, match="adapter already"):
        attach(model, LoraConfig())
    with pytest.raises(ConfigError, match="save_adapter"):
        save_model(model, tmp_path / "m")
    save_model(merge(adapters), tmp_path / "m")


def test_a_tied_head_is_named_embed():
    config = family_of("llama").tiny.model_copy(update={"tie_embeddings": True})
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    model = initialize(Model(config), 0)
    with pytest.raises(ConfigError, match="name embed"):
        attach(model, LoraConfig(modules_to_save=("head",)))
    adapters = stirred(attach(model, LoraConfig(modules_to_save=("embed",))))
    assert adapters.whole == ("embed.weight",) and model.head.weight.requires_grad
