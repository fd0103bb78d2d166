"""What a run reads: a folder of text, encoded by the model's tokenizer or one of its own, or token stores that were
built before, in fixed shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator

from hyla.checkpoints import Tokenizer, load_tokenizer
from hyla.data.mixture import Mixture
from hyla.data.packing import Packer, TokenStore
from hyla.data.store import STORE_FILE, Store, open_store
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config import Config
from hyla.train.config import TrainConfig
from hyla.train.corpus import Document, read_corpus
from hyla.train.evaluation import heldout_sample
from hyla.train.files import replace_json
from hyla.train.sources import mixture_of, packer_of
from hyla.train.tokenizer import encode_documents, train_tokenizer

TOKENS_FILE, HELDOUT_FILE, TOKENIZER_FOLDER = "tokens.safetensors", "heldout.json", "tokenizer"


class StoreShare(Config):
    """One token store of a mixture."""

    folder: str
    """What `hyla data build` made."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the rows, beside the other stores' weights. A store that ends begins again."""


class DataSource(Config):
    """A folder of text or token stores; neither: the source of the Python standard library found on this machine."""

    texts: str | None = None
    """Folder of UTF-8 text files, read with its subfolders."""
    stores: tuple[StoreShare, ...] = ()
    """Token stores of one tokenizer, e.g. of conversations."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Expected share of a text folder's files that training never sees; a store has its own."""
    heldout_bytes: Annotated[int, Field(ge=1)] = 400_000
    """Most held-out text that is scored. More of it: a steadier figure, a longer wait."""

    @model_validator(mode="after")
    def _is_found_from_anywhere(self):
        if self.texts is not None and self.stores:
            raise ValueError("give texts or stores, not both: `hyla data build` makes a store of the texts")
        for path in (self.texts, *(store.folder for store in self.stores)):
            if path is not None and not Path(path).is_absolute():
                raise ValueError(f"{path} must be an absolute path, so that a run can be continued from anywhere")
        return self


@dataclass(frozen=True)
class RunData:
    """Documents of training and held-out ones, as ids; the held-out ones as texts, too."""

    tokenizer: Tokenizer
    train: tuple[TokenStore, ...]
    shares: tuple[float, ...]
    """Of the rows, one a store, of any sum."""
    heldout: TokenStore
    documents: tuple[Document, ...]
    record: dict
    """Where it came from, for run.json."""

    @property
    def num_tokens(self) -> int:
        """Of all training documents."""
        return sum(len(store.tokens) for store in self.train)

    def steps(self, config: TrainConfig) -> Packer | Mixture:
        """What every step reads. Raises ConfigError for less text than one step."""
        return packer_of(self.train[0], config) if len(self.train) == 1 else mixture_of(self.train, self.shares, config)


def is_store(data: str | None) -> bool:
    """Whether a folder is a token store."""
    return data is not None and (Path(data) / STORE_FILE).exists()


def read_data(
    source: DataSource,
    say: Callable[[str], None],
    *,
    trained_from: str | None,
    vocab_size: int | None,
    max_len: int,
) -> RunData:
    """The data of a new run.

    trained_from: the model whose tokenizer it must have, or None. vocab_size, max_len: of a tokenizer that is trained
    on a folder of text otherwise. Raises ConfigError for stores of other tokenizers, or without held-out documents.
    """
    tokenizer = None if trained_from is None else load_tokenizer(trained_from)
    if source.stores:
        return _of_stores(source, tokenizer)
    corpus = read_corpus(Path(source.texts) if source.texts else None, heldout_share=source.heldout_share)
    say(f"{len(corpus.train)} files to train on, {len(corpus.heldout)} held out, from {corpus.folder}")
    if tokenizer is None:
        assert vocab_size is not None
        tokenizer = train_tokenizer(corpus.train, vocab_size, max_len)
    documents = heldout_sample(corpus.heldout, source.heldout_bytes)
    record = {
        "folder": corpus.folder,
        "fingerprint": corpus.fingerprint,
        "train_files": len(corpus.train),
        "heldout_files": len(corpus.heldout),
    }
    train, heldout = (TokenStore.from_lists(encode_documents(tokenizer, part)) for part in (corpus.train, documents))
    return RunData(tokenizer, (train,), (1.0,), heldout, documents, record)


def _of_stores(source: DataSource, tokenizer: Tokenizer | None) -> RunData:
    stores = [open_store(Path(share.folder)) for share in source.stores]
    first = stores[0].tokenizer()
    if tokenizer is None:
        tokenizer = first
    for store in stores:
        if not has_same_ids(store.tokenizer(), tokenizer):
            raise ConfigError(
                f"the token store {store.folder} has the ids of another tokenizer than the model or the first store; "
                "build it again with that tokenizer"
            )
    documents, ids = [], []
    for store in stores:
        texts, found = _heldout(store, source.heldout_bytes // len(stores))
        documents += texts
        ids += found
    if not documents:
        raise ConfigError(
            f"the token store {stores[0].folder} has no held-out document to score; build it with --heldout-share"
        )
    shares = tuple(share.weight for share in source.stores)
    record = {"stores": [{"folder": str(store.folder), "digest": store.digest} for store in stores]}
    train = tuple(store.train for store in stores)
    return RunData(tokenizer, train, shares, _joined(ids), tuple(documents), record | {"shares": shares})


def has_same_ids(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers number the same tokens alike."""
    return a.backend.get_vocab(with_added_tokens=True) == b.backend.get_vocab(with_added_tokens=True)


def _heldout(store: Store, most_bytes: int) -> tuple[list[Document], list[TokenStore]]:
    """The first held-out documents, of so many bytes together, and their ids; one at least, if there is one."""
    tokenizer, documents, parts, start, held = store.tokenizer(), [], [], 0, 0
    tokens, learnt = store.heldout.tokens, store.heldout.learnt
    for number, end in enumerate(store.heldout.ends.tolist()):
        document = Document(f"held-out document {number}", tokenizer.decode(tokens[start:end].tolist()))
        if documents and held + len(document.data) > most_bytes:
            break
        documents.append(document)
        parts.append((start, end))
        start, held = end, held + len(document.data)
    return documents, [_part(tokens, learnt, start, end) for start, end in parts]


def _part(tokens, learnt, start: int, end: int) -> TokenStore:
    return TokenStore(
        tokens[start:end].int(), torch.tensor([end - start]), None if learnt is None else learnt[start:end].clone()
    )


def _joined(parts: list[TokenStore]) -> TokenStore:
    ends = torch.cat([part.ends for part in parts]).cumsum(0)
    learnt = None
    if any(part.learnt is not None for part in parts):
        whole = [torch.ones_like(p.tokens, dtype=torch.uint8) if p.learnt is None else p.learnt for p in parts]
        learnt = torch.cat(whole)
    return TokenStore(torch.cat([part.tokens for part in parts]), ends, learnt)


def save_data(folder: Path, data: RunData) -> None:
    """Into a run's folder; of stores, which stay where they are, only the held-out part."""
    from hyla.checkpoints.tensor_files import write_tensors

    (folder / TOKENIZER_FOLDER).mkdir()
    data.tokenizer.save(folder / TOKENIZER_FOLDER)
    kept = {"heldout": data.heldout} if "stores" in data.record else {"train": data.train[0], "heldout": data.heldout}
    tensors = {f"{name}.tokens": store.tokens for name, store in kept.items()}
    tensors |= {f"{name}.ends": store.ends for name, store in kept.items()}
    tensors |= {f"{name}.learnt": store.learnt for name, store in kept.items() if store.learnt is not None}
    write_tensors(tensors, folder / TOKENS_FILE)
    replace_json(folder / HELDOUT_FILE, {"documents": [asdict(document) for document in data.documents]})


def load_data(folder: Path, record: dict) -> RunData:
    """Back from a run's folder. record: what run.json says of its data.

    Raises CheckpointError where a file is missing or damaged, ConfigError where a token store is another one now.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / TOKENS_FILE)
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(f"{folder / TOKENS_FILE} is damaged ({error}); delete {folder} and start anew") from None
    if "stores" in record:
        train = tuple(_same_store(one, folder).train for one in record["stores"])
    else:
        train = (TokenStore(tensors["train.tokens"], tensors["train.ends"], tensors.get("train.learnt")),)
    return RunData(
        tokenizer=load_tokenizer(folder / TOKENIZER_FOLDER),
        train=train,
        shares=tuple(record.get("shares", (1.0,))),
        heldout=TokenStore(tensors["heldout.tokens"], tensors["heldout.ends"], tensors.get("heldout.learnt")),
        documents=tuple(Document(**one) for one in read_json(folder / HELDOUT_FILE)["documents"]),
        record=record,
    )


def _same_store(record: dict, folder: Path) -> Store:
    store = open_store(Path(record["folder"]))
    if store.digest != record["digest"]:
        raise ConfigError(
            f"the token store {store.folder} has other documents now (digest {store.digest}) than when the run in "
            f"{folder} began ({record['digest']}); put the old one back, or choose another --out"
        )
    return store
