"""One folder's whole life: made by transformers, loaded, checked, served, trained, saved, read by transformers."""

import openai
import torch
from live_server import Live
from parity_oracle import make_oracle, read_oracle
from test_exactness import cut, in_pieces
from tiny_text import byte_tokenizer

import hyla
from hyla.checkpoints import load_tokenizer
from hyla.data.packing import TokenStore
from hyla.server import single_app
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.sources import packer_of

KIMI = {
    "vocab_size": 259,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "kv_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "linear_num_heads": 3,
    "linear_head_dim": 18,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 22,
    "pad_token_id": 0,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
TEXT = b"def first(items):\n    return items[0]\n\n\ndef last(items):\n    return items[-1]\n"


def agree(model, oracle, ids) -> float:
    """Largest difference of logits over the largest logit."""
    with torch.inference_mode():
        ours = model.logits([ids])[0].double()
        theirs = oracle(torch.tensor([ids])).logits[0].double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_a_folder_from_transformers_is_loaded_checked_served_trained_and_saved(tmp_path):
    from transformers import KimiLinearConfig

    oracle = make_oracle(KimiLinearConfig(**KIMI), tmp_path / "from_transformers")
    byte_tokenizer().save(tmp_path / "from_transformers")
    ids = list(TEXT)

    model = hyla.load(tmp_path / "from_transformers")
    assert agree(model, oracle, ids) <= 1e-4
    (whole,) = model.logits([ids])
    for size in (1, 7, 64):
        assert torch.equal(in_pieces(model, [ids], [cut(len(ids), size)])[0], whole.detach())

    engine = hyla.Engine(tmp_path / "from_transformers", memory=24 << 20, max_num_sequences=4)
    (alone,) = engine.generate("def ", hyla.SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))
    with Live(single_app(engine, model_name="tiny")) as live:
        client = openai.OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
        done = client.completions.create(
            model="tiny", prompt="def ", max_tokens=12, temperature=0, logprobs=1, extra_body={"ignore_eos": True}
        )
        assert done.choices[0].text == alone.text
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=8, temperature=0, stream=True
        )
        assert [chunk for chunk in stream][-1].choices[0].finish_reason in ("length", "stop")
        client.close()

    store = TokenStore.from_lists([[256, *TEXT, 256]] * 3)
    config = TrainConfig(steps=50, batch_tokens=160, max_document_tokens=80, checkpoint_every=50)
    (tmp_path / "run").mkdir()
    trainer = Trainer(model, packer_of(store, config), config, tmp_path / "run")
    trainer.run()
    losses = [line.loss for line in trainer.metrics.read()]
    assert len(losses) == 50 and losses[-1] < 0.5 * losses[0]

    hyla.save(model, tmp_path / "trained", tokenizer=load_tokenizer(tmp_path / "from_transformers"))
    trained = read_oracle(tmp_path / "trained")
    assert agree(model, trained, ids) <= 1e-4
    assert agree(model, oracle, ids) > 1e-2
    again = hyla.load(tmp_path / "trained")
    assert torch.equal(again.logits([ids])[0], model.logits([ids])[0])
