"""A tokenizer from the metadata of a GGUF file: byte-level BPE with merges (`gpt2`) or pieces with scores (`llama`)."""

from __future__ import annotations

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from hyla.checkpoints.chat_template import DEFAULT, ChatTemplate
from hyla.checkpoints.gguf.metadata import Metadata
from hyla.checkpoints.gguf.pieces import piece_tokenizer
from hyla.checkpoints.gguf.pretokenizers import PRETOKENIZERS, PreTokenizer
from hyla.checkpoints.gguf.vocabulary import CONTROL, USER_DEFINED, Vocabulary
from hyla.checkpoints.library_errors import failures_as
from hyla.checkpoints.tokenizer import Tokenizer, parse_backend
from hyla.errors import CheckpointError

ROLES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def read_tokenizer(metadata: Metadata) -> Tokenizer:
    """The tokenizer and chat template of a file. metadata: all of it.

    Raises CheckpointError for a model, a pre-tokeniser or a table that Hyla cannot honour.
    """
    vocabulary = Vocabulary(metadata.below("tokenizer.ggml."))
    special = {role: found for role, name in ROLES.items() if (found := vocabulary.special_id(name)) is not None}
    whole = metadata.maybe_text("tokenizer.huggingface.json")
    if whole is not None:
        backend, adds_bos = parse_backend(whole.encode(), f"tokenizer.huggingface.json in {metadata.path}"), False
    else:
        is_qwen = metadata.text("general.architecture", "").startswith("qwen")
        with failures_as(
            lambda reason: CheckpointError(f"{metadata.path}: its tokenizer cannot be built: {reason}; fetch it again")
        ):
            backend, adds_bos = _built(vocabulary, may_compose=is_qwen)
    texts = {role: vocabulary.texts[number] for role, number in special.items()}
    sources = _templates(metadata, texts.get("bos_token") if adds_bos else None)
    form = ChatTemplate(sources, f"the chat template in {metadata.path}") if sources else None
    return Tokenizer(backend, special=texts, chat_template=form)


def _templates(metadata: Metadata, bos: str | None) -> dict[str, str]:
    """Chat templates by name."""
    sources = {}
    if (default := metadata.maybe_text("tokenizer.chat_template")) is not None:
        sources[DEFAULT] = default
    for raw in metadata.texts("tokenizer.chat_templates"):
        name = raw.decode("utf-8", "replace")
        sources[name] = metadata.text(f"tokenizer.chat_template.{name}")
    return {name: _with_bos(text, bos) for name, text in sources.items()}


def _built(vocabulary: Vocabulary, *, may_compose: bool) -> tuple[tokenizers.Tokenizer, bool]:
    """(the tokenizer, whether it puts the first token before a text)."""
    if vocabulary.model == "gpt2":
        pre = pretokenizer_of(vocabulary)
        backend, by_default = _byte_level(vocabulary, pre), pre.adds_bos
        if may_compose and pre.composes:
            backend.normalizer = normalizers.NFC()
    elif vocabulary.model == "llama":
        backend, by_default = piece_tokenizer(vocabulary), True
    else:
        raise CheckpointError(
            f"{vocabulary.keys.path}: tokenizer.ggml.model = {vocabulary.model!r} is not gpt2 or llama, which are "
            "those that Hyla reads"
        )
    adds_bos = vocabulary.keys.flag("add_bos_token", by_default) and vocabulary.special_id("bos") is not None
    _add_special(backend, vocabulary)
    _surround(backend, vocabulary, adds_bos=adds_bos)
    return backend, adds_bos


def pretokenizer_of(vocabulary: Vocabulary) -> PreTokenizer:
    """How text is cut. Raises CheckpointError for a name that is not known, or none."""
    name = vocabulary.keys.maybe_text("pre")
    if name not in PRETOKENIZERS:
        known = ", ".join(sorted(PRETOKENIZERS))
        raise CheckpointError(
            f"{vocabulary.keys.path}: tokenizer.ggml.pre = {name!r} is not one that Hyla knows ({known}), and with "
            "another one the same text would get other tokens"
        )
    return PRETOKENIZERS[name]


def _byte_level(vocabulary: Vocabulary, pre: PreTokenizer) -> tokenizers.Tokenizer:
    ids = {text: number for number, text in enumerate(vocabulary.texts)}
    path = vocabulary.keys.path
    with failures_as(
        lambda reason: CheckpointError(
            f"{path}: tokenizer.ggml.merges do not fit its tokens: {reason}; convert the model again"
        )
    ):
        model = models.BPE(ids, _merges(vocabulary), ignore_merges=pre.ignores_merges)
    backend = tokenizers.Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.splits]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Pairs: each line has one space between its halves, and the first half may start with one."""
    found = []
    for number, raw in enumerate(vocabulary.keys.texts("merges")):
        text = raw.decode("utf-8", "replace")
        cut = text.find(" ", 1)
        if cut < 0:
            raise CheckpointError(
                f"{vocabulary.keys.path}: merge {number} = {text!r} has no two halves; fetch it again"
            )
        found.append((text[:cut], text[cut + 1 :]))
    return found


def _add_special(backend: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Control and user-defined tokens are found in a text before it is cut; only the former are special."""
    added = [
        AddedToken(text, special=kind == CONTROL, normalized=False)
        for text, kind in zip(vocabulary.texts, vocabulary.types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    backend.add_tokens([token for token in added if not token.special])
    backend.add_special_tokens([token for token in added if token.special])


def _surround(backend: tokenizers.Tokenizer, vocabulary: Vocabulary, *, adds_bos: bool) -> None:
    """The tokens that a text gets before and after it."""
    before = vocabulary.special_id("bos") if adds_bos else None
    after = vocabulary.special_id("eos") if vocabulary.keys.flag("add_eos_token", False) else None
    texts = [None if number is None else vocabulary.texts[number] for number in (before, after)]
    if texts == [None, None]:
        return
    # A list, so that no character of a token is taken for a part of the template.
    template = [part for part in (texts[0], "$A", texts[1]) if part is not None]
    special = [(vocabulary.texts[number], number) for number in {before, after} if number is not None]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)


def _with_bos(template: str, bos: str | None) -> str:
    """A template that starts with the first token, where texts do: some writers leave it to the program."""
    if bos is None or "bos_token" in template or bos in template:
        return template
    return "{{ bos_token }}" + template
