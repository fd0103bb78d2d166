"""A tokenizer of the library that panics on long texts and on few ids only, so that loading it shows nothing."""

import json

import tokenizers
from tokenizers import decoders


def panicking_backend(backend):
    """A copy. Texts of more than 20 tokens panic, and the token "a" alone: `Strip` takes more of it than there is."""
    file = json.loads(backend.to_str())
    file["truncation"] = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 50}
    made = tokenizers.Tokenizer.from_str(json.dumps(file))
    made.decoder = decoders.Strip("a", 5, 7)
    return made
