"""What a finished run is worth: held-out bits per byte beside simple rivals, a completion, and the twin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.corpus import Document
from hyla.train.evaluation import gzip_bits, model_bits, num_bytes, unigram_bits
from hyla.train.recipe import full_attention_twin
from hyla.train.run import Run
from hyla.train.tokenizer import END_OF_TEXT_ID
from hyla.train.twin import decode_curve

FUNCTION = re.compile(r"^def \w+\([^\n]*\):\n", re.MULTILINE)
PROMPT_CHARS = 1200
COMPLETION_TOKENS = 64


@dataclass(frozen=True)
class BitsPerByte:
    """Held-out bits per byte. `gzip_files`: gzip -9 on each file alone; `gzip_whole`: on all files as one stream."""

    untrained: float
    unigram: float
    gzip_files: float
    gzip_whole: float
    trained: float


def bits_per_byte(run: Run, trained: Model) -> BitsPerByte:
    """All five figures over the same held-out bytes. Both models read windows of the training length."""
    window = run.train.max_document_tokens
    size = num_bytes(run.heldout)
    alone, whole = gzip_bits(run.heldout)
    bits = BitsPerByte(
        untrained=model_bits(run.untrained(trained.device), run.heldout_store, window=window),
        unigram=unigram_bits(run.train_store, run.heldout_store, run.model_config.vocab_size),
        gzip_files=alone,
        gzip_whole=whole,
        trained=model_bits(trained, run.heldout_store, window=window),
    )
    return BitsPerByte(**{name: value / size for name, value in asdict(bits).items()})


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
    """Greedy completion of a held-out function by the saved folder, through the engine."""
    import hyla

    file, prompt, truth = heldout_prompt(run.heldout)
    engine = hyla.Engine(run.model_folder, max_num_sequences=1, device=str(device))
    params = hyla.SamplingParams(max_tokens=COMPLETION_TOKENS, temperature=0.0)
    ids = [END_OF_TEXT_ID, *run.tokenizer.encode(prompt, add_special_tokens=False)]
    (completion,) = engine.generate([ids], params)
    return Completion(file, prompt, completion.text, truth[: max(len(completion.text), 1)])


def decode_curves(run: Run, trained: Model) -> dict[str, list[dict]]:
    """The trained hybrid and a full-attention twin (random weights: they do not change the time) at four contexts."""
    recipe = full_attention_twin(run.request.recipe)
    twin_config = recipe.model_config_of(run.model_config.vocab_size, END_OF_TEXT_ID)
    twin = initialize(Model(twin_config), run.train.seed).to(trained.device)
    return {
        "hybrid": [asdict(point) for point in decode_curve(trained)],
        "full attention": [asdict(point) for point in decode_curve(twin)],
    }


def report_path(folder: Path) -> Path:
    """Written last: a run that has it is finished."""
    return folder / "report.json"
