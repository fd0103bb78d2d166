"""A small folder as Kimi's are: tiktoken.model, tokenizer_config.json, and code that nobody may run."""

import base64
import json
import random

import tiktoken
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from hyla.checkpoints.tiktoken_files import byte_texts

PATTERN = "|".join(
    [
        r"""[\p{Han}]+""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"""
        r"""[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"""
        r"""[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
"""As published in moonshotai/Kimi-Linear-48B-A3B-Instruct, tokenization_kimi.py."""
CODE = (
    "raise SystemExit('code of the folder was run')\npat_str = ["
    + ", ".join(f'r"""{part}"""' for part in [PATTERN])
    + "]\n"
)
TEXT = (
    "The year's 1,234,567 days: we'll see, I'M sure they'd've gone.\n\n  中文字符和English混排，漢字とかな、"
    "한국어 텍스트 "
    "naïve café ΑΒΓ привет मराठी 🙂👩‍👩‍👧 x += 3.14159;\t\tif (a && b) { return [1, 2]; }\r\n    indented    \n   \n"
    "你好世界你好 hello hello Hello HELLO iPhone ABCdef 12345678 ２０２４ ½ ₂ —… «quoted» aaaaaaaaa bababab   end "
)
NAMED = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 9: "[PAD]", 11: "<think>", 12: "</think>"}
"""Added tokens by their place behind the ranks."""
PLAIN = ("<think>", "</think>")
"""Those that are not special."""


def trained_ranks(num=600):
    """A byte-level BPE as tiktoken's files have it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=num, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    backend.train_from_iterator([TEXT, TEXT[:200], "aa aaa aaaa aaaaa abab ababab"], trainer)
    to_byte = {text: byte for byte, text in enumerate(byte_texts())}
    tokens = sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
    return {bytes(to_byte[char] for char in text): rank for text, rank in tokens}


def random_ranks(seed, num=700):
    """Tokens in an order that no training gives: many can be made in several ways, some in none."""
    draw = random.Random(seed)
    data, tokens = TEXT.encode() + b"aaaaaaaaabababab" * 3, [bytes([byte]) for byte in range(256)]
    draw.shuffle(tokens)
    while len(tokens) < num:
        place, size = draw.randrange(len(data)), draw.choice([2, 2, 2, 3, 3, 4, 5, 6, 9])
        token = data[place : place + size]
        if len(token) == size and token not in tokens:
            tokens.insert(draw.randrange(len(tokens)) if draw.random() < 0.5 else len(tokens), token)
    return {token: rank for rank, token in enumerate(tokens)}


def write_folder(folder, ranks, **settings):
    """The files in an existing folder, and what reads them in the publishers' program."""
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    (folder / "tiktoken.model").write_bytes(b"".join(lines))
    (folder / "tokenization_kimi.py").write_text(CODE, encoding="utf-8")
    first = len(ranks)
    keys = {
        "added_tokens_decoder": {
            str(first + place): {"content": text, "special": text not in PLAIN, "lstrip": False, "normalized": False}
            for place, text in NAMED.items()
        },
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]", "tokenizer_class": "TikTokenTokenizer",
        "chat_template": "{{ tools | tojson }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(keys | settings), encoding="utf-8")
    special = {NAMED.get(n - first, f"<|reserved_token_{n}|>"): n for n in range(first, first + 258)}
    return tiktoken.Encoding("kimi", pat_str=PATTERN, mergeable_ranks=dict(ranks), special_tokens=special)


def published_ids(encoding, text):
    """The ids by the publishers' rules: blocks of 400,000 characters, and in each runs of at most 25,000."""
    found = []
    for start in range(0, len(text), 400_000):
        block, begin, length = text[start : start + 400_000], 0, 0
        for n, char in enumerate(block):
            goes_on = n and char.isspace() == block[n - 1].isspace()
            length = length + 1 if goes_on else 1
            if length > 25_000:
                found += encoding.encode(block[begin:n], allowed_special="all")
                begin, length = n, 1
        found += encoding.encode(block[begin:], allowed_special="all")
    return found
