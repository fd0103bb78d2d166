"""The oracle of the parity tests: transformers in float64, with weights drawn so that every term matters."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import torch
from safetensors.torch import load_file

from hyla.caches import Cache
from hyla.checkpoints import load_model, save_model
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.ops.batch import Batch

LENGTHS = (1, 63, 64, 65, 200)
PROMPT, DECODED = 69, 64
"""Tokens before the decoded ones, and those: the decoded ones close a chunk and a page, at 128."""
TOLERANCE = 1e-4
"""Largest difference of fp32 logits over the largest logit, and of gradients over the largest one."""
MIN_ROUTER_GAP = 1e-5
"""A smaller gap between a chosen and a rejected expert could be decided by rounding, and the test would say nothing."""


def draw(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random value for a published tensor: scales of order one, decays A <= 1, biases that change choices."""
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    if name.endswith("A_log"):
        return torch.rand(tensor.shape, generator=generator, dtype=torch.float64).mul(0.9).add(0.1).log()
    if name.endswith("dt_bias"):
        return noise * 0.5 - 1.0
    if name.endswith("e_score_correction_bias"):
        return noise * 0.1
    if name.endswith("sinks"):
        return noise * 2.0
    if tensor.dim() == 1:  # norms: around whatever scale one is in this family
        return tensor.double() + noise * 0.2
    fan_in = tensor.shape[-1] if "embed" not in name else 1
    return noise * fan_in**-0.5


def make_oracle(config, folder, seed: int = 0):
    """A transformers model of a config with drawn weights, saved to the folder; returned in float64."""
    from transformers import AutoModelForCausalLM

    _quiet()
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    tied = model.config.get_text_config().tie_word_embeddings
    state = {
        name: draw(name, tensor, generator).to(tensor.dtype)
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    square = [name for name, tensor in state.items() if tensor.dim() == 2 and len(set(tensor.shape)) == 1]
    assert not square, f"{square} could be transposed: choose other sizes"
    model.load_state_dict(state, strict=not tied)
    model.tie_weights()
    model.save_pretrained(folder)
    return read_oracle(folder)


def read_oracle(folder):
    """A folder as transformers reads it, in float64."""
    from transformers import AutoModelForCausalLM

    _quiet()
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(info.values()), info
    return model.eval()


def prompts_for(vocab_size: int, seed: int = 0, lengths=LENGTHS) -> list[list[int]]:
    """Random prompts, one of each length."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return [torch.randint(0, vocab_size, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def oracle_logits(oracle, prompts) -> list[torch.Tensor]:
    """Logits of each prompt alone, float64; asserts that no routing decision was close."""
    with clear_routing(oracle):
        return [oracle(torch.tensor([ids]), use_cache=False).logits[0] for ids in prompts]


@torch.no_grad()
def oracle_decoded(oracle, ids: list[int]) -> torch.Tensor:
    """Logits [DECODED, V] of the last tokens, given one by one to the oracle with its own cache, float64.

    Positions are given: MiniMaxCache does not know how much it holds.
    """
    rows, cache = [], None
    with clear_routing(oracle):
        for start, end in [(0, PROMPT), *((at, at + 1) for at in range(PROMPT, len(ids)))]:
            positions = torch.arange(start, end)[None]
            out = oracle(torch.tensor([ids[start:end]]), position_ids=positions, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0])
    assert cache is not None
    return torch.cat(rows[1:])


@contextmanager
def clear_routing(oracle):
    """Asserts that no routing decision within was close."""
    gaps = []
    hooks = [
        module.register_forward_hook(lambda module, args, output: gaps.append(router_gap(module, output[0], *args[1:])))
        for module in oracle.modules()
        if type(module).__name__.lower().endswith("topkrouter")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    assert min(gaps, default=1.0) > MIN_ROUTER_GAP, f"router gap {min(gaps)}: choose another seed"


def router_gap(router, logits_TE: torch.Tensor, bias_E: torch.Tensor | None = None) -> float:
    """The smallest distance between the last chosen expert (or group) and the first rejected one."""
    if bias_E is not None:
        return _gap(logits_TE.sigmoid() + bias_E, router.top_k)
    if not hasattr(router, "e_score_correction_bias"):
        return _gap(logits_TE.softmax(-1), router.top_k)
    scores_TE = logits_TE.sigmoid() + router.e_score_correction_bias
    grouped = scores_TE.unflatten(-1, (router.num_group, -1))
    by_group = grouped.topk(2, dim=-1)[0].sum(-1)
    kept = by_group >= by_group.topk(router.topk_group, dim=-1)[0][:, -1:]
    masked = grouped.masked_fill(~kept[..., None], -1.0).flatten(1)
    return min(_gap(masked, router.top_k), _gap(by_group, router.topk_group))


def _gap(scores: torch.Tensor, count: int) -> float:
    if scores.shape[-1] == count:
        return 1.0
    ordered = scores.sort(dim=-1, descending=True)[0]
    return (ordered[:, count - 1] - ordered[:, count]).min().item()


def error(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest difference over the largest logit, over all prompts."""
    worst = max((mine - other).abs().max().item() for mine, other in zip(ours, theirs, strict=True))
    return worst / max(other.abs().max().item() for other in theirs)


def check_parity(config, folder, seed: int = 0) -> None:
    """transformers -> hyla: the same logits; hyla -> transformers: the same tensors, bit for bit."""
    oracle = make_oracle(config, folder / "theirs", seed)
    prompts = prompts_for(oracle.config.get_text_config().vocab_size, seed)
    model = load_model(folder / "theirs")
    with torch.no_grad():
        assert error(model.logits(prompts), oracle_logits(oracle, prompts)) <= TOLERANCE
    check_gradients(oracle, folder / "theirs", prompts)
    save_model(model.pack(), folder / "ours")
    before, after = oracle.state_dict(), read_oracle(folder / "ours").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def check_gradients(oracle, folder, prompts) -> None:
    """One packed training step of hyla, in float64 and in fp32, beside transformers' of each prompt alone: the loss,
    and the gradients at both ends of the stack, which is what every layer hands on."""
    total = sum(map(len, prompts))
    expected_loss = 0.0
    with clear_routing(oracle):
        for ids in prompts:
            tokens = torch.tensor(ids)
            logits = oracle(tokens[None], use_cache=False).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, tokens.roll(-1), reduction="sum") / total
            loss.backward()
            expected_loss += loss.item()
    expected = [oracle.get_input_embeddings().weight.grad, oracle.get_output_embeddings().weight.grad]
    padding = oracle.get_input_embeddings().padding_idx  # PyTorch gives this row no gradient
    flat = torch.tensor([token for ids in prompts for token in ids])
    targets = torch.cat([torch.tensor(ids).roll(-1) for ids in prompts])
    for dtype in (torch.float64, torch.float32):  # transformers computes delta rules in fp32 in both
        model = load_model(folder, dtype=dtype)
        for parameter in model.parameters():
            parameter.requires_grad_()
        losses = model(flat, Batch.packed(list(map(len, prompts))), targets=Targets(targets, chunk_rows=50))
        losses.total.backward()
        assert abs(losses.total.item() - expected_loss) <= TOLERANCE * expected_loss
        if padding is not None:
            model.embed.weight.grad[padding] = expected[0][padding]
        for found, exact in zip((model.embed.weight.grad, model.head.weight.grad), expected, strict=True):
            assert (found.double() - exact).abs().max() <= TOLERANCE * exact.abs().max(), dtype
    oracle.zero_grad(set_to_none=True)


def without_mtp(config):
    """transformers leaves prediction modules behind the last layer out by the published models' numbers of layers."""
    return config.model_copy(update={"mtp": ()})


@torch.inference_mode()
def check_decoded(model, ids: list[int], expected_TV: torch.Tensor) -> float:
    """Our logits of the last rows, each token decoded through the caches after a prefill: those that are expected.

    ids: the prompt and a random continuation, which is given to the model whatever it would have chosen.
    """
    count = len(expected_TV)
    cache = Cache(model.cache_specs(), num_pages=len(ids) // 64 + 1, num_slots=1)
    sequence, rows = cache.open(), []
    for part in [ids[:-count], *([token] for token in ids[-count:])]:
        hidden = model(torch.tensor(part), cache.batch([(sequence, len(part))]), cache.layers)
        cache.commit(sequence, len(part))
        rows.append(model.head_logits(hidden))
    found = error([torch.cat(rows[1:])], [expected_TV])
    assert found <= TOLERANCE
    return found


def check_decoding(config, folder, seed: int = 0) -> float:
    """64 tokens decoded by hyla through its caches, and by transformers through its own: the same logits."""
    oracle = make_oracle(config, folder, seed)
    ids = continued_prompt(oracle.config.get_text_config().vocab_size, seed)
    return check_decoded(load_model(folder), ids, oracle_decoded(oracle, ids))


def continued_prompt(vocab_size: int, seed: int = 0) -> list[int]:
    """A random prompt and the random tokens that are decoded after it."""
    return prompts_for(vocab_size, seed, lengths=(PROMPT + DECODED,))[0]


def check_way_back(model, folder) -> None:
    """A model made here, saved, read by transformers: the same logits."""
    initialize(model, seed=3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name.replace("router_bias", "e_score_correction_bias"), parameter, generator))
    save_model(model, folder)
    prompts = prompts_for(model.config.vocab_size, lengths=(1, 130))
    with torch.no_grad():
        assert error(model.logits(prompts), oracle_logits(read_oracle(folder), prompts)) <= TOLERANCE


def same_tensors(first, second) -> bool:
    """Two safetensors files hold the same names, dtypes and bits."""
    before, after = load_file(first), load_file(second)
    return before.keys() == after.keys() and all(
        before[name].dtype == after[name].dtype and torch.equal(before[name], after[name]) for name in before
    )


def _quiet() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.ERROR)
