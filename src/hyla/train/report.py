"""What a finished run is worth: held-out bits per byte beside simple rivals, a completion, and the twin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hyla.checkpoints.card import HeldoutScore
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.card import SAMPLING
from hyla.train.corpus import Document
from hyla.train.evaluation import gzip_bits, model_bits, num_bytes, unigram_bits
from hyla.train.recipe import full_attention_twin
from hyla.train.run import Run
from hyla.train.tokenizer import END_OF_TEXT_ID
from hyla.train.twin import decode_curves as twin_curves

FUNCTION = re.compile(r"^def \w+\([^\n]*\):\n", re.MULTILINE)
PROMPT_CHARS = 1200
COMPLETION_TOKENS, COMPLETION_SEED = 48, 0
"""A short drawn sample: the likeliest text of a small model repeats itself for ever."""


@dataclass(frozen=True)
class BitsPerByte:
    """Held-out bits per byte. `gzip_files`: gzip -9 on each file alone; `gzip_whole`: on all files as one stream."""

    untrained: float
    unigram: float
    gzip_files: float
    gzip_whole: float
    trained: float


def heldout_score(run: Run, trained: Model) -> HeldoutScore:
    """What a card says: the model, reading windows of the training length, and gzip over the same held-out bytes."""
    size = num_bytes(run.heldout)
    bits = model_bits(trained, run.heldout_store, window=run.train.max_document_tokens)
    return HeldoutScore(
        bits_per_byte=bits / size, num_bytes=size, gzip_bits_per_byte=min(gzip_bits(run.heldout)) / size
    )


def bits_per_byte(run: Run, trained: HeldoutScore, device: torch.device) -> BitsPerByte:
    """The trained model's score beside those of its rivals, over the same held-out bytes. device: of the model."""
    size = num_bytes(run.heldout)
    alone, whole = gzip_bits(run.heldout)
    untrained = model_bits(run.untrained(device), run.heldout_store, window=run.train.max_document_tokens)
    unigram = unigram_bits(run.data.train, run.heldout_store, run.model_config.vocab_size)
    rivals = {"untrained": untrained, "unigram": unigram, "gzip_files": alone, "gzip_whole": whole}
    return BitsPerByte(**{name: bits / size for name, bits in rivals.items()}, trained=trained.bits_per_byte)


@dataclass(frozen=True)
class Completion:
    """What the model writes after a held-out prompt, beside what the file really says."""

    file: str
    prompt: str
    text: str
    truth: str


def heldout_prompt(documents: Sequence[Document]) -> tuple[str, str, str]:
    """(file, text up to and with a function's first line, the text after it). Without any function: a file's half."""
    for document in documents:
        for match in FUNCTION.finditer(document.text):
            if match.end() > PROMPT_CHARS // 2:
                start = max(0, match.end() - PROMPT_CHARS)
                return document.name, document.text[start : match.end()], document.text[match.end() :]
    document = max(documents, key=lambda document: len(document.text))
    middle = len(document.text) // 2
    return document.name, document.text[max(0, middle - PROMPT_CHARS) : middle], document.text[middle:]


def complete_heldout(run: Run, device: torch.device) -> Completion:
    """A drawn completion of a held-out function by the saved folder, through the engine."""
    import hyla

    file, prompt, truth = heldout_prompt(run.heldout)
    engine = hyla.Engine(run.model_folder, max_num_sequences=1, device=str(device))
    params = hyla.SamplingParams(
        max_tokens=COMPLETION_TOKENS, seed=COMPLETION_SEED, **SAMPLING.model_dump(exclude_none=True)
    )
    ids = [END_OF_TEXT_ID, *run.tokenizer.encode(prompt, add_special_tokens=False)]
    (completion,) = engine.generate([ids], params)
    return Completion(file, prompt, completion.text, truth[: max(len(completion.text), 1)])


def decode_curves(run: Run, trained: Model) -> dict[str, list[dict]]:
    """The trained hybrid and a full-attention twin (random weights: they do not change the time) at four contexts."""
    assert run.request.model.hybrid is not None, "the quickstart's model is one"
    recipe = full_attention_twin(run.request.model.hybrid)
    twin_config = recipe.model_config_of(run.model_config.vocab_size, END_OF_TEXT_ID)
    twin = initialize(Model(twin_config), run.train.seed).to(trained.device)
    curves = twin_curves({"hybrid": trained, "full attention": twin})
    return {name: [asdict(point) for point in points] for name, points in curves.items()}


def report_path(folder: Path) -> Path:
    """Written last: a run that has it is finished."""
    return folder / "report.json"
