"""Pieces of long documents whose states go on: each is what it is in the whole document, its gradient ends there."""

import json

import pytest
import torch
from matrix.mixers import MIXERS, config_of
from tiny_run import CONFIG, RECIPE, tiny_store

from hyla.data.packing import PackedRows, TokenStore
from hyla.errors import ConfigError
from hyla.layers.carry import Carry
from hyla.models.config import MLPConfig, ModelConfig, SublayerConfig
from hyla.models.initialize import initialize
from hyla.models.objective import Targets
from hyla.models.trunk import Model
from hyla.ops.batch import Batch
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.precision import Masters
from hyla.train.run_state import finished_states
from hyla.train.sources import packer_of

pytestmark = pytest.mark.usefixtures("each_backend")

RECURRENT = ("kda", "gated_delta", "lightning", "mamba2", "gla", "linear")
LENGTHS = (64 + 37, 128 + 64, 51)
"""Of three documents: of two, three and one pieces of 64, the second one ending on the grid."""


def model_of(*mixers: str, dtype: str = "fp32") -> Model:
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=20))
    sublayers = tuple(part for mixer in mixers for part in (SublayerConfig(module=MIXERS[mixer]), mlp))
    config = ModelConfig(family="hyla", vocab_size=61, hidden_dim=24, sublayers=sublayers, max_len=512)
    model = initialize(Model(config), 5, std=0.3)
    Masters(model, dtype)
    return model


def rows_of(lengths=LENGTHS) -> PackedRows:
    drawn = torch.randint(0, 61, (2, sum(lengths)), generator=torch.Generator().manual_seed(7))
    return PackedRows(drawn[0], drawn[1], lengths)


def in_turn(model: Model, rows: PackedRows, compute) -> list:
    """compute(pass, carries) of all passes, each with what the one before left."""
    found, carries = [], []
    for part in rows.pieces_in_turn(64, None):
        carries = model.carries() if part.goes_on is None else [carry.next(part.goes_on) for carry in carries]
        found.append(compute(part, carries))
    return found


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("mixers", [*((mixer,) for mixer in RECURRENT), RECURRENT], ids="+".join)
def test_a_piece_has_the_bits_that_it_has_in_the_whole_document(mixers, dtype):
    model, rows = model_of(*mixers, dtype=dtype), rows_of()
    whole_TD = model(rows.tokens_T, rows.batch).detach()
    passes = in_turn(model, rows, lambda part, carries: (part, model(part.tokens_T, part.batch, carries).detach()))
    assert [part.lengths for part, _ in passes] == [(64, 64, 51), (37, 64), (64,)]
    firsts = rows.batch.offsets
    wanted = [[(0, 0), (1, 0), (2, 0)], [(0, 64), (1, 64)], [(1, 128)]]
    for (part, found_TD), places in zip(passes, wanted):
        assert part.starts == tuple(start for _, start in places)
        for piece_TD, (document, start) in zip(found_TD.split(part.lengths), places):
            first = firsts[document] + start
            assert torch.equal(piece_TD, whole_TD[first : first + len(piece_TD)]), (document, start)


def test_the_losses_of_the_pieces_are_those_of_the_rows_in_the_whole():
    model, rows = model_of(*RECURRENT), rows_of()
    second = torch.zeros(len(rows.tokens_T), dtype=torch.bool)
    second[64:101] = second[101 + 64 : 101 + 128] = True
    whole = model(rows.tokens_T, rows.batch, targets=Targets(rows.targets_T, 500, second)).next_token
    _, found, _ = in_turn(
        model,
        rows,
        lambda part, c: model(part.tokens_T, part.batch, c, targets=Targets(part.targets_T, 500)).next_token,
    )
    assert torch.equal(found, whole)


def gradient_of_piece(model: Model, rows: PackedRows, number: int, **changes) -> dict[str, torch.Tensor]:
    def compute(part, carries):
        return model(part.tokens_T, part.batch, carries, targets=Targets(part.targets_T, 500)).total

    in_turn(model, rows, compute)[number].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mixer", RECURRENT)
def test_the_gradient_ends_where_a_piece_begins(mixer):
    """It is that of the piece alone with constants before it: of float64 autograd by way of one call."""
    rows = rows_of((128,))
    found = gradient_of_piece(model_of(mixer).double(), rows, 1)
    # The same by hand: what the first piece left is a constant.
    model = model_of(mixer).double()
    with torch.no_grad():
        carries = model.carries()
        model(rows.tokens_T[:64], Batch.packed([64]), carries)
    assert all(not tensor.requires_grad for carry in carries for tensor in carry.after.values())
    later = [carry.next((0,)) for carry in carries]
    targets = Targets(rows.targets_T[64:], 500)
    model(rows.tokens_T[64:], Batch((64,), (64,)), later, targets=targets).total.backward()
    unlike_whole = 0
    whole = model_of(mixer).double()
    learnt = torch.arange(128) >= 64
    whole(rows.tokens_T, rows.batch, targets=Targets(rows.targets_T, 500, learnt)).total.backward()
    for (name, parameter), other in zip(model.named_parameters(), whole.parameters()):
        assert torch.equal(parameter.grad, found[name]), name
        unlike_whole += not torch.allclose(parameter.grad, other.grad, rtol=1e-6)
    assert unlike_whole > 3


@pytest.mark.parametrize("mixer", ["softmax", "window", "mla", "sparse_mla"])
def test_attention_sees_its_piece_alone(mixer):
    model, rows = model_of(mixer), rows_of()
    for part, found_TD in in_turn(model, rows, lambda part, c: (part, model(part.tokens_T, part.batch, c).detach())):
        assert torch.equal(found_TD, model(part.tokens_T, Batch.packed(part.lengths)).detach())


def test_a_hybrid_with_multi_token_prediction_takes_pieces_too():
    model, rows = initialize(Model(config_of("kda")), 3), rows_of()

    def compute(part, carries):
        return model(part.tokens_T, part.batch, carries, targets=Targets(part.targets_T, 500, mtp_weight=0.3))

    for losses in in_turn(model, rows, compute):
        losses.total.backward()
        assert losses.mtp > 0


def test_passes_have_every_row_once_and_pieces_of_a_document_in_order():
    lengths = (200, 1, 64, 65, 130, 7)
    rows = PackedRows(torch.arange(sum(lengths)), torch.arange(sum(lengths)) + 1, lengths)
    for most in (None, 64, 130, 1000):
        seen: list[int] = []
        before: PackedRows | None = None
        for part in rows.pieces_in_turn(64, most):
            assert most is None or sum(part.lengths) <= most
            offsets = part.batch.offsets
            if part.goes_on is not None:
                assert before is not None
                for offset, place in zip(offsets, part.goes_on):
                    end = before.batch.offsets[place] + before.lengths[place]
                    assert part.tokens_T[offset] == before.tokens_T[end - 1] + 1
                    assert part.starts[0] == before.starts[0] + 64
            seen += part.tokens_T.tolist()
            before = part
        assert sorted(seen) == list(range(sum(lengths)))


def config(**options) -> TrainConfig:
    chosen = {"carry_state": True, "max_document_tokens": 64, "micro_batch_tokens": 100, **options}
    return TrainConfig(**{**CONFIG.model_dump(), **chosen})


def trainer_of(folder, train: TrainConfig, store: TokenStore | None = None) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    model = initialize(Model(RECIPE.model_config_of(300, 0)), train.seed)
    return Trainer(model, packer_of(store or tiny_store(), train), train, folder)


def gradients_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    trainer._gradients(trainer.source.step(0))
    return {name: weight.grad for name, weight in trainer.masters.weights.items() if weight.grad is not None}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_recomputation_changes_no_bit(tmp_path, dtype):
    plain = gradients_of(trainer_of(tmp_path, config(dtype=dtype)))
    again = gradients_of(trainer_of(tmp_path, config(dtype=dtype, recompute={"kinds": ("all",)})))
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, dtype):
    train = config(dtype=dtype)
    trainer_of(tmp_path / "whole", train).run()
    for _ in range(train.steps + 1):
        stopped = trainer_of(tmp_path / "parts", train)
        stopped.resume()
        count = stopped.finished_steps + 2
        stopped.run(is_stopped=lambda: stopped.finished_steps >= count)  # noqa: B023

    def lines(name):
        found = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"].hex(), line["grad_norm"].hex()) for line in found]

    assert lines("parts") == lines("whole") and len(lines("whole")) == train.steps
    ends = [finished_states(tmp_path / name / "checkpoints")[-1] for name in ("whole", "parts")]
    for file in ends[0].iterdir():
        if file.suffix == ".safetensors":
            assert file.read_bytes() == (ends[1] / file.name).read_bytes(), file.name


def test_a_pass_without_anything_to_learn_still_hands_its_state_on(tmp_path):
    """A conversation whose answer stands in its second piece."""
    tokens = torch.randint(1, 300, (194,), generator=torch.Generator().manual_seed(2))
    learnt = (torch.arange(194) > 100).to(torch.uint8)
    store = TokenStore(tokens, torch.tensor([194]), learnt)
    gradients = [
        gradients_of(trainer_of(tmp_path, config(batch_tokens=192, micro_batch_tokens=None), one))
        for one in (store, TokenStore(tokens.clone().index_fill_(0, torch.tensor([3]), 5), store.ends, learnt))
    ]
    assert any(not torch.equal(one, gradients[1][name]) for name, one in gradients[0].items())


def test_what_cannot_be_carried_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="multiples of 64, and max_document_tokens = 70 is none"):
        config(max_document_tokens=70)
    full = RECIPE.model_copy(update={"pattern": "MM"}).model_config_of(300, 0)
    with pytest.raises(ConfigError, match="no mixer of the model has a state"):
        Trainer(initialize(Model(full), 0), packer_of(tiny_store(), config()), config(), tmp_path)
    carry = Carry()
    carry.after["state"] = torch.arange(6.0).view(3, 2)
    assert carry.next((2, 0)).before["state"].tolist() == [[4.0, 5.0], [0.0, 1.0]]
