"""One prompt of 262,144 tokens through a small hybrid, from its text to the score of its needle."""

import pytest
from tiny_text import byte_tokenizer

from hyla.engine import Engine
from hyla.evals.long_context.run import LongContextRequest, LongContexts
from hyla.evals.long_context.source import source_of
from hyla.models.config import KDAConfig, MLPConfig, ModelConfig, SoftmaxConfig, SublayerConfig
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

LENGTH = 1 << 18
pytestmark = pytest.mark.slow


def small_hybrid() -> ModelConfig:
    """Three KDA layers and one of full attention, a head of 16 channels each."""
    kda = SublayerConfig(module=KDAConfig(num_heads=1, key_dim=16, value_dim=16, gate_rank=16))
    full = SublayerConfig(module=SoftmaxConfig(num_heads=1, num_kv_heads=1, head_dim=16))
    mlp = SublayerConfig(module=MLPConfig(intermediate_dim=64))
    layers = (kda, mlp, kda, mlp, kda, mlp, full, mlp)
    return ModelConfig(family="hyla", vocab_size=260, hidden_dim=32, sublayers=layers, max_len=LENGTH)


def test_a_prompt_of_a_quarter_of_a_million_tokens_is_read_asked_and_scored(tmp_path):
    engine = Engine(
        initialize(Model(small_hybrid()), 0, std=0.1), tokenizer=byte_tokenizer(), memory=1 << 30, max_num_sequences=2
    )
    request = LongContextRequest(kinds=("niah_single_2",), lengths=(LENGTH,), samples=1)
    found = []
    for name in ("first", "again"):
        evals = LongContexts(tmp_path / name, request, engine, engine.tokenizer, source_of(None))
        found += evals.run()

    first, again = found
    assert LENGTH - 8192 < first.tokens <= LENGTH - 128
    assert first.score == float(first.wanted[0] in first.answer)
    # The second time all but its end comes from the cache, with the same answer. There is room for half of the states
    # that are wanted; those that save the fewest tokens have gone.
    every = engine.options.snapshot_every
    assert first.cached_tokens == 0 and again.cached_tokens >= first.tokens - every
    assert again.answer == first.answer and engine.num_tokens < first.tokens + every + 2 * 128
