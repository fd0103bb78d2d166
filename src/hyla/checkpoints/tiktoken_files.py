"""Kimi's tokenizers: `tiktoken.model`, a byte-level BPE as ranks, and the added tokens of tokenizer_config.json.

The rules are those of the published tokenization_kimi.py (moonshotai/Kimi-Linear-48B-A3B-Instruct, Kimi-K2), of which
nothing is executed: its pattern, its 258 places for added tokens behind the ranks, and how it cuts very long runs of
text. What comes out is a tokenizer of the tokenizers library that gives tiktoken's ids.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from hyla.checkpoints.gguf.pretokenizers import PRETOKENIZERS
from hyla.checkpoints.library_errors import failures_as
from hyla.errors import CheckpointError
from hyla.whole_files import read_whole

FILE, CODE_FILE = "tiktoken.model", "tokenization_kimi.py"
TOKENIZER_CLASS = "TikTokenTokenizer"
"""What its tokenizer_config.json says, and nobody else's."""
NUM_ADDED = 258
"""Places behind the ranks. Those without a name in tokenizer_config.json are reserved tokens."""
MOST_FILE_BYTES = 64 << 20
MOST_TOKEN_BYTES = 1024
MOST_CODE_CHARS = 1 << 20
BLOCK_CHARS, RUN_CHARS = 400_000, 25_000
"""The published code cuts a text into blocks of so many characters, and a block in runs of space, or of anything but
space, that are longer than this."""
_SPACE, _OTHER = r"[\s\x1c-\x1f]", r"[^\s\x1c-\x1f]"
"""As Python's `str.isspace`."""


def tiktoken_backend(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a folder. settings: its tokenizer_config.json.

    Raises CheckpointError for a broken file, and for a tokenizer that would cut text in another way.
    """
    _check_is_kimi(folder, settings)
    tokens = read_ranks(folder / FILE)
    with failures_as(lambda reason: CheckpointError(f"{folder / FILE} makes no tokenizer: {reason}; fetch it again")):
        to_text = byte_texts()
        texts = ["".join(to_text[byte] for byte in token) for token in tokens]
        merges = [(texts[left], texts[right]) for left, right in merges_of(tokens)]
        ids = {text: rank for rank, text in enumerate(texts)}
        backend = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=True))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                *_cuts_of_long_texts(),
                *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRETOKENIZERS["kimi-k2"].splits),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        _add_tokens(backend, len(tokens), settings, folder)
    return backend


def _check_is_kimi(folder: Path, settings: Mapping[str, Any]) -> None:
    place = folder / "tokenizer_config.json"
    found = settings.get("tokenizer_class")
    if found != TOKENIZER_CLASS:
        raise CheckpointError(
            f"{place}: tokenizer_class = {found!r}; the rules of a {FILE} are known here for {TOKENIZER_CLASS} (Kimi) "
            "alone, and with others the same text would get other tokens; add a tokenizer.json"
        )
    code = folder / CODE_FILE
    if not code.is_file():
        return
    with code.open(encoding="utf-8", errors="replace") as file:
        text = file.read(MOST_CODE_CHARS)
    parts = [part for part in _alternatives(PRETOKENIZERS["kimi-k2"].splits[0]) if part not in text]
    if parts:
        raise CheckpointError(
            f"{code} cuts text by another expression than the one that Hyla knows ({parts[0]} is not in it), so that "
            "the same text would get other tokens; add a tokenizer.json"
        )


def _alternatives(pattern: str) -> list[str]:
    """
    >>> _alternatives("[a|b]|(?i:c|d)?|e")
    ['[a|b]', '(?i:c|d)?', 'e']
    """
    parts, depth = [""], 0
    for char in pattern:
        depth += (char in "[(") - (char in "])")
        if char == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def read_ranks(file: Path) -> list[bytes]:
    """The tokens by rank. Raises CheckpointError unless each rank and each byte is there once."""
    try:
        source = read_whole(file, MOST_FILE_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}; fetch it again") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(source.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text, rank = line.split()
            token = base64.b64decode(text, validate=True)
            new = ranks.setdefault(token, int(rank)) == int(rank) and len(rank) < 20
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"{file}, line {number} is no token in base64 and its rank; fetch it again"
            ) from error
        if not new or not 1 <= len(token) <= MOST_TOKEN_BYTES:
            raise CheckpointError(
                f"{file}, line {number}: a token has 1 to {MOST_TOKEN_BYTES} bytes and one rank; fetch it again"
            )
    tokens = sorted(ranks, key=ranks.__getitem__)
    if [ranks[token] for token in tokens] != list(range(len(tokens))):
        raise CheckpointError(
            f"{file}: the ranks of {len(tokens):,} tokens are not 0 to {len(tokens) - 1:,}, each once"
        )
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise CheckpointError(f"{file} has no token for the byte {missing[0]}; fetch it again")
    return tokens


def merges_of(tokens: list[bytes]) -> list[tuple[int, int]]:
    """All pairs of tokens that make a token, in the order of what they make.

    tiktoken joins any two neighbours that make a token, the lowest rank first and the leftmost of equal ones. What is
    joined inside a token before it is whole depends on its own bytes only, so one pair at most ever makes it: the order
    of its pairs here changes nothing. A token that is not made so is only met as a whole piece.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return [
        (ranks[token[:cut]], ranks[token[cut:]])
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]


def byte_texts() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _cuts_of_long_texts() -> list[pre_tokenizers.Split]:
    r"""A cut behind each block, and in a block behind every full run that goes on. \G: where a search starts."""
    block = rf"\G(?m:.{{1000}}){{{BLOCK_CHARS // 1000}}}"
    runs = "|".join(rf"{kind}{{{RUN_CHARS}}}(?={kind})" for kind in (_OTHER, _SPACE))
    starts = rf"(?:\G|(?<={_SPACE})(?={_OTHER})|(?<={_OTHER})(?={_SPACE}))"
    return [pre_tokenizers.Split(Regex(one), "merged_with_previous") for one in (block, f"{starts}(?:{runs})")]


def _add_tokens(backend: tokenizers.Tokenizer, first: int, settings: Mapping[str, Any], folder: Path) -> None:
    place = folder / "tokenizer_config.json"
    named = settings.get("added_tokens_decoder", {})
    if not isinstance(named, Mapping):
        raise CheckpointError(f"{place}: added_tokens_decoder must be an object of tokens by id; fetch it again")
    tokens = {
        n: AddedToken(f"<|reserved_token_{n}|>", special=True, normalized=False)
        for n in range(first, first + NUM_ADDED)
    }
    for key, entry in named.items():
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if not (key.isdecimal() and int(key) in tokens and isinstance(content, str) and content):
            raise CheckpointError(
                f"{place}: added_tokens_decoder[{key[:20]!r}] is no token with an id from {first} to "
                f"{first + NUM_ADDED - 1}, behind the ranks of {FILE}; fetch both again"
            )
        flags = {name: entry.get(name) is True for name in ("special", "lstrip", "rstrip", "single_word")}
        tokens[int(key)] = AddedToken(content, normalized=False, **flags)
    for is_special, group in groupby(tokens.values(), key=lambda token: token.special):
        (backend.add_special_tokens if is_special else backend.add_tokens)(list(group))
    for number, token in tokens.items():
        if backend.token_to_id(token.content) != number:
            raise CheckpointError(f"{place}: the added token {token.content!r} is there twice, or a token of {FILE}")
