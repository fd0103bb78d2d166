"""How a byte-level BPE of a GGUF file cuts text before its merges: one row for each name in `tokenizer.ggml.pre`.

The expressions are those of the models' own tokenizer.json files, as far as they cut alike; each was compared with
llama.cpp on random text of mixed scripts (docs/gguf.md).
"""

from __future__ import annotations

from typing import NamedTuple

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"


def _words(upper: str, lower: str, ending: str) -> str:
    """Capitals, then small letters, with what may stand before them."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{upper}*{lower}+{ending}|{before}{upper}+{lower}*{ending}"


_CASED = _words(f"[{_UPPER}]", f"[{_LOWER}]", f"{_CONTRACTION}?")
_CASED_WITHOUT_HAN = _words(rf"[{_UPPER}&&[^\p{{Han}}]]", rf"[{_LOWER}&&[^\p{{Han}}]]", f"{_CONTRACTION}?")
_QWEN2 = rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{_REST}"
_DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PreTokenizer(NamedTuple):
    """One way to cut."""

    splits: tuple[str, ...]
    """Expressions whose matches are pieces, applied one after another."""
    ignores_merges: bool = False
    """Whether a piece that is a token stays whole, whatever the merges make of it."""
    adds_bos: bool = False
    """Whether a text starts with the first token where the file does not say."""
    composes: bool = False
    """Whether Qwen's models compose text first (NFC): nothing in the file says so."""


_ROWS = {
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2": PreTokenizer(
        (rf"{_CONTRACTION}|{_LETTERS}|\p{{N}}{{1,3}}{_REST}",), ignores_merges=True, adds_bos=True
    ),
    "qwen2": PreTokenizer((_QWEN2,), composes=True),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer(
        (
            rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        composes=True,
    ),
    "deepseek-v3": PreTokenizer((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK)),
    "gpt-4o minimax-m2": PreTokenizer((rf"{_CASED}|\p{{N}}{{1,3}}{_REST_WITH_SLASH}",)),
    "kimi-k2": PreTokenizer((rf"[\p{{Han}}]+|{_CASED_WITHOUT_HAN}|\p{{N}}{{1,3}}{_REST}",)),
    "bailingmoe bailingmoe2": PreTokenizer(
        (
            rf"'(?i:[sdmt]|ll|ve|re)|{_LETTERS}|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "tekken": PreTokenizer(
        (rf"{_words(f'[{_UPPER}]', f'[{_LOWER}]', '')}|\p{{N}}{_REST_WITH_SLASH}",),
        ignores_merges=True,
        adds_bos=True,
    ),
    "gpt-2": PreTokenizer((_GPT2,)),
    "smollm starcoder refact command-r codeshell exaone": PreTokenizer((r"\p{N}", _GPT2)),
}

PRETOKENIZERS = {name: row for names, row in _ROWS.items() for name in names.split()}
"""By the name that a file gives."""
