"""Multi-token prediction against that of transformers, which reads the same folders (not those of DeepSeek-V3.2)."""

import pytest
import torch
from parity_oracle import TOLERANCE, draw, error, read_oracle
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

LENGTH = 130
FAMILIES = ("deepseek_v3", "bailing_hybrid_3")


def drawn(family: str) -> Model:
    """A tiny model whose modules repeat the trunk's embedding and head, as the published ones do."""
    model = initialize(Model(family_of(family).tiny), 3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name.replace("router_bias", "e_score_correction_bias"), parameter, generator))
        for module in model.mtp:
            for own, shared in ((module.embed, model.embed), (module.head, model.head)):
                if own is not None:
                    own.weight.copy_(shared.weight)
    return model


def read_modules(folder, config, monkeypatch):
    """The trunk and the modules as transformers reads them, in float64. It knows their layers by a fixed number."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_layers import MtpModel

    # transformers has DeepSeek's name only for the last norm of a module.
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.replace(".final_layernorm.", ".shared_head.norm."): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kind = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(folder))]
    count = len(config.mixers)
    pattern = "|".join(rf"model\.layers\.{count + n}\..*" for n in range(len(config.mtp)))
    monkeypatch.setattr(kind, "_keys_to_ignore_on_load_unexpected", [pattern])
    trunk = read_oracle(folder)
    if getattr(trunk.config, "layer_types", None):  # lists of the trunk's layers; it cannot tell the modules' from them
        trunk.config.mtp_layer_types = trunk.config.layer_types[-1:] * len(config.mtp)
    trunk.config.mtp_mlp_layer_types = ["sparse"] * len(config.mtp)
    return trunk, MtpModel.from_pretrained(trunk)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_step_gives_the_logits_of_transformers(family, tmp_path, monkeypatch):
    from transformers.cache_utils import MtpCache

    save_model(drawn(family), tmp_path)
    model = load_model(tmp_path)
    trunk, modules = read_modules(tmp_path, model.config, monkeypatch)
    count = model.num_mtp_steps
    tokens = torch.randint(model.config.vocab_size, (LENGTH + count,), generator=torch.Generator().manual_seed(1))
    batch, positions = Batch.packed([LENGTH]), torch.arange(1, LENGTH + 1)[None]
    cache = MtpCache(config=trunk.config.get_mtp_config())
    hidden = model.hidden(tokens[:LENGTH], batch)
    theirs = trunk(tokens[None, :LENGTH], output_hidden_states=True, use_cache=False).hidden_states[-1]
    for step in range(count):
        ids = tokens[step + 1 :][:LENGTH]
        hidden = model.predict_next(ids, hidden.next_TD, batch, step=step)
        theirs = modules.forward_layer(step, theirs, positions + step, cache, input_ids=ids[None])
        logits = model.head_logits(hidden.head_TD, step=step)
        assert error([logits], list(modules.shared_head(theirs))) <= TOLERANCE
