"""New tokens for a model: rows of the embedding and the head, and their texts in the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
import torch

from hyla.checkpoints.tokenizer import Tokenizer
from hyla.errors import ConfigError
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model


def extend_vocabulary(model: Model, tokenizer: Tokenizer, new_tokens: Sequence[str]) -> tuple[Model, Tokenizer]:
    """A model and a tokenizer that know some more special tokens. Returns both, new; the tensors that stay are shared.

    The new tokens take the first ids behind the tokenizer's. Rows of the model that no token had (many are padded) are
    used first; what is missing is added to embedding and head. Every new token's row starts as the mean of the rows of
    the old tokens, so that it is as likely as an average one (Hewitt 2021), and must be trained: `modules_to_save =
    ["embed", "head"]`. Neither the given model nor the given tokenizer is changed.
    Raises ConfigError for a token that is there already, stands twice or is empty, for a packed model, and where the
    tokenizer has more tokens than the model has rows.
    """
    new = _checked(model, tokenizer, new_tokens)
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    first = tokenizer.vocab_size
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in new])
    template = tokenizer.chat_template
    wider = Tokenizer(backend, special=tokenizer.special, chat_template=template, settings=tokenizer.settings)
    if [wider.token_id(text) for text in new] != list(range(first, first + len(new))):
        raise ConfigError(f"the tokenizer did not give {new[0]!r} the id {first}; its ids have gaps")
    bigger = with_vocabulary(model, max(model.config.vocab_size, first + len(new)))
    _start(bigger, first, len(new))
    return bigger, wider


def _checked(model: Model, tokenizer: Tokenizer, new_tokens: Sequence[str]) -> list[str]:
    new = list(new_tokens)
    if not new or len(set(new)) < len(new) or "" in new:
        raise ConfigError(f"new_tokens = {new[:3]} must be different texts, one at least")
    known = next((text for text in new if tokenizer.token_id(text) is not None), None)
    if known is not None:
        raise ConfigError(f"new_tokens: {known!r} is token {tokenizer.token_id(known)} already; leave it out")
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size} rows; they are not "
            "of one model"
        )
    return new


@torch.no_grad()
def _start(model: Model, first: int, count: int) -> None:
    """Give new tokens the mean row of the old ones, in fp32, rounded once."""
    for name in _rows_of_tokens(model):
        weight = NamedWeights(model).read(name)
        mean_D = weight[:first].to(torch.promote_types(weight.dtype, torch.float32)).mean(0)
        weight[first : first + count] = mean_D.to(weight.dtype)


def _rows_of_tokens(model: Model) -> list[str]:
    """The weights that have a row for each token: embeddings and heads, those of multi-token prediction too."""
    return [
        name for name in NamedWeights(model).shapes if name.split(".")[-2:] in (["embed", "weight"], ["head", "weight"])
    ]


@torch.no_grad()
def with_vocabulary(model: Model, vocab_size: int) -> Model:
    """The model with more rows of tokens; the new ones start as the mean of the old. Other weights are shared.

    Raises ConfigError for fewer rows than there are, and for a packed embedding or head.
    """
    old = model.config.vocab_size
    if vocab_size < old:
        raise ConfigError(f"vocab_size = {vocab_size}: the model has {old} rows, and none is taken away")
    with torch.device("meta"):
        wider = Model(model.config.model_copy(update={"vocab_size": vocab_size}))
    source, target = NamedWeights(model), NamedWeights(wider)
    widened = set(_rows_of_tokens(model))
    for name in source.shapes:
        stored, tensor = source.fp8(name), source.read(name)
        if stored is not None:
            target.assign_fp8(name, stored)
            continue
        if tensor.is_meta or any(projection.is_packed for projection, _ in source.projections.get(name, ())):
            raise ConfigError(f"{name} is packed; call model.unpack() before tokens are added")
        target.assign(name, _widened(tensor, vocab_size) if name in widened else tensor)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != wider.get_parameter(name).requires_grad:
            wider.get_parameter(name).requires_grad_(parameter.requires_grad)
    wider.stored_dtypes, wider.published_scales = dict(model.stored_dtypes), dict(model.published_scales)
    wider.quantization = model.quantization
    return wider.train(model.training)


def _widened(weight_VD: torch.Tensor, vocab_size: int) -> torch.Tensor:
    missing = vocab_size - weight_VD.shape[0]
    if not missing:
        return weight_VD.clone()
    mean_D = weight_VD.to(torch.promote_types(weight_VD.dtype, torch.float32)).mean(0)
    return torch.cat([weight_VD, mean_D.to(weight_VD.dtype).expand(missing, -1)])
