"""What a run reads: a folder of text, encoded by a tokenizer of its own, or a token store that was built before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hyla.checkpoints import Tokenizer, load_tokenizer
from hyla.data.packing import TokenStore
from hyla.data.store import STORE_FILE, Store, open_store
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.train.corpus import Document, read_corpus
from hyla.train.evaluation import heldout_sample
from hyla.train.files import replace_json
from hyla.train.recipe import HybridRecipe
from hyla.train.tokenizer import encode_documents, train_tokenizer

TOKENS_FILE, HELDOUT_FILE, TOKENIZER_FOLDER = "tokens.safetensors", "heldout.json", "tokenizer"


@dataclass(frozen=True)
class RunData:
    """Documents of training and held-out ones, as ids; the held-out ones as texts, too."""

    tokenizer: Tokenizer
    train: TokenStore
    heldout: TokenStore
    documents: tuple[Document, ...]
    record: dict
    """Where it came from, for run.json."""


def is_store(data: str | None) -> bool:
    """Whether a run's data is a token store."""
    return data is not None and (Path(data) / STORE_FILE).exists()


def data_of_texts(
    data: str | None, recipe: HybridRecipe, *, heldout_share: float, heldout_bytes: int, say: Callable[[str], None]
) -> RunData:
    """Read a folder of text and train its tokenizer. data: None for Python's standard library."""
    corpus = read_corpus(Path(data) if data else None, heldout_share=heldout_share)
    say(f"{len(corpus.train)} files to train on, {len(corpus.heldout)} held out, from {corpus.folder}")
    tokenizer = train_tokenizer(corpus.train, recipe.vocab_size, recipe.max_len)
    documents = heldout_sample(corpus.heldout, heldout_bytes)
    record = {
        "folder": corpus.folder,
        "fingerprint": corpus.fingerprint,
        "train_files": len(corpus.train),
        "heldout_files": len(corpus.heldout),
    }
    train, heldout = (TokenStore.from_lists(encode_documents(tokenizer, part)) for part in (corpus.train, documents))
    return RunData(tokenizer, train, heldout, documents, record)


def data_of_store(data: str, heldout_bytes: int) -> RunData:
    """Open a token store. Raises ConfigError for one without held-out documents."""
    store = open_store(Path(data))
    documents, heldout = _heldout(store, heldout_bytes)
    return RunData(store.tokenizer(), store.train, heldout, documents, {"folder": data, "store": store.digest})


def _heldout(store: Store, most_bytes: int) -> tuple[tuple[Document, ...], TokenStore]:
    """The first held-out documents, of so many bytes together, and their ids; one at least."""
    tokenizer, documents, ids, start, held = store.tokenizer(), [], [], 0, 0
    for number, end in enumerate(store.heldout.ends.tolist()):
        own = store.heldout.tokens[start:end].tolist()
        document = Document(f"held-out document {number}", tokenizer.decode(own))
        if documents and held + len(document.data) > most_bytes:
            break
        documents.append(document)
        ids.append(own)
        start, held = end, held + len(document.data)
    if not documents:
        raise ConfigError(
            f"the token store {store.folder} has no held-out document to score; build it with --heldout-share"
        )
    return tuple(documents), TokenStore.from_lists(ids)


def save_data(folder: Path, data: RunData) -> None:
    """Into a run's folder; of a store, which stays where it is, only the held-out part."""
    from hyla.checkpoints.tensor_files import write_tensors

    (folder / TOKENIZER_FOLDER).mkdir()
    data.tokenizer.save(folder / TOKENIZER_FOLDER)
    stores = {"heldout": data.heldout} if "store" in data.record else {"train": data.train, "heldout": data.heldout}
    tensors = {f"{name}.tokens": store.tokens for name, store in stores.items()}
    tensors |= {f"{name}.ends": store.ends for name, store in stores.items()}
    write_tensors(tensors, folder / TOKENS_FILE)
    replace_json(folder / HELDOUT_FILE, {"documents": [asdict(document) for document in data.documents]})


def load_data(folder: Path, record: dict) -> RunData:
    """Back from a run's folder. record: what run.json says of its data.

    Raises CheckpointError where a file is missing or damaged, ConfigError where the token store is another one now.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / TOKENS_FILE)
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(f"{folder / TOKENS_FILE} is damaged ({error}); delete {folder} and start anew") from None
    if "store" in record:
        train = _same_store(record, folder).train
    else:
        train = TokenStore(tensors["train.tokens"], tensors["train.ends"])
    return RunData(
        tokenizer=load_tokenizer(folder / TOKENIZER_FOLDER),
        train=train,
        heldout=TokenStore(tensors["heldout.tokens"], tensors["heldout.ends"]),
        documents=tuple(Document(**one) for one in read_json(folder / HELDOUT_FILE)["documents"]),
        record=record,
    )


def _same_store(record: dict, folder: Path) -> Store:
    store = open_store(Path(record["folder"]))
    if store.digest != record["store"]:
        raise ConfigError(
            f"the token store {store.folder} has other documents now (digest {store.digest}) than when the run in "
            f"{folder} began ({record['store']}); put the old one back, or choose another --out"
        )
    return store
