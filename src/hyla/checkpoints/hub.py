"""Names as well as folders: "org/name" on the Hugging Face hub becomes a folder in its cache.

Endpoint, cache, token and offline mode are huggingface_hub's own: HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from pathlib import Path

from hyla.checkpoints.index import INDEX_FILE, SINGLE_FILE, shard_names
from hyla.errors import CheckpointError, ConfigError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SMALL_FILES = ("*.json", "*.jinja", "tokenizer*")
"""Everything but the weights. Nothing else is fetched: no code, no pickles."""


def resolve(folder: str | Path, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """A local folder as it is; a name "org/name" as a folder of the hub's cache, fetched where it is not there yet.

    revision: branch, tag or commit of a name. with_weights: False fetches only configs and tokenizer.
    Raises CheckpointError for what cannot be had, ConfigError for a revision of a local folder.
    """
    path = Path(folder)
    if path.exists() or not NAME.fullmatch(str(folder)):
        if revision is not None:
            raise ConfigError(f"revision = {revision!r} needs a name like org/name; {folder} is not one on the hub")
        return path
    return _fetch(str(folder), revision, with_weights)


def _fetch(name: str, revision: str | None, with_weights: bool) -> Path:
    from huggingface_hub import errors

    at = f"{name} (revision {revision})" if revision else name
    try:
        # Top-level files only: other folders of a repository hold other formats.
        folder = _snapshot(name, revision, SMALL_FILES)
        if with_weights:
            names = shard_names(folder) if (folder / INDEX_FILE).exists() else [SINGLE_FILE]
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

    return Path(snapshot_download(name, revision=revision, allow_patterns=list(files), ignore_patterns=["*/*"]))
