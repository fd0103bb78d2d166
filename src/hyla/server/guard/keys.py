"""API keys: who may ask, compared in constant time, read again when their file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from hyla.errors import ConfigError
from hyla.server.reading.errors import HTTPFailure

logger = logging.getLogger(__name__)

ADMIN = "admin"
"""The label of every admin key."""


@dataclass(frozen=True)
class Sender:
    """Whose a request is."""

    client: str = ""
    """The key's label; "" on a server without keys."""
    namespace: str = ""
    """Requests of different ones never share cached states; "" for all of a server whose keys share them."""
    is_admin: bool = False

    def salt(self, given: str | None) -> str:
        """The engine's salt for a client's `cache_salt`: no other namespace can ask for the same."""
        if not self.namespace:
            return given or ""
        return digest(f"{self.namespace}\0{given or ''}").hex()


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def label_of(key: str) -> str:
    """A name for a key that does not tell it."""
    return "key-" + digest(key).hex()[:12]


GROUP = re.compile(r"(?P<key>\S+)\s+group=(?P<group>\S{1,64})")
"""A line of a key file that puts its key into a group."""


def read_key_file(file: Path) -> dict[str, str | None]:
    """The keys of a file, one a line, each with its group, "KEY group=NAME", or None; empty lines and lines that start
    with # are skipped. Raises ConfigError."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot read the key file {file}: {error}") from error
    grouped = ((line, GROUP.fullmatch(line)) for line in lines if line and not line.startswith("#"))
    keys = dict((found["key"], found["group"]) if found else (line, None) for line, found in grouped)
    if not keys:
        raise ConfigError(f"the key file {file} holds no key; add one a line, or leave the file out")
    return keys


@dataclass
class KeyRing:
    """Keys of the API and of its admin routes. Without any key, everyone may use the API and nobody the admin routes.

    keys: given ones. file: more of them, read when it changes. admin_keys: for /admin and for every other route.
    shares_prefixes: all keys take up each other's cached states; otherwise only those of one group do.
    """

    keys: Iterable[str] = ()
    file: Path | None = None
    admin_keys: Iterable[str] = ()
    shares_prefixes: bool = False
    _digests: dict[bytes, str] = field(default_factory=dict, init=False, repr=False)
    _groups: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    """By label."""
    _admin_digests: frozenset[bytes] = field(default=frozenset(), init=False, repr=False)
    _stamp: tuple[int, int] | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        self.keys, self.admin_keys = tuple(self.keys), tuple(self.admin_keys)
        self._admin_digests = frozenset(digest(key) for key in self.admin_keys)
        self._load(read_key_file(self.file) if self.file is not None else {})
        self._stamp = self._file_stamp()

    @property
    def is_open(self) -> bool:
        """Whether the API needs no key."""
        return not self._digests

    def _load(self, of_file: Mapping[str, str | None]) -> None:
        self._digests = {digest(key): label_of(key) for key in (*self.keys, *of_file)}
        self._groups = {label_of(key): group for key, group in of_file.items() if group is not None}

    def _file_stamp(self) -> tuple[int, int] | None:
        if self.file is None:
            return None
        try:
            status = self.file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def refresh(self) -> None:
        """Read the file again if it has changed. One that cannot be read leaves the keys as they are, and is logged."""
        stamp = self._file_stamp()
        if stamp == self._stamp or self.file is None:
            return
        self._stamp = stamp
        try:
            self._load(read_key_file(self.file))
            logger.info("read %s again: %d keys", self.file, len(self._digests))
        except ConfigError as error:
            logger.error("%s; the keys stay as they were", error)

    def label(self, key: str) -> str | None:
        """Whose key this is, None for nobody's. Takes the same time whichever key it is."""
        requested, found = digest(key), None
        for known, label in self._digests.items():
            if hmac.compare_digest(known, requested):
                found = label
        return ADMIN if self.is_admin(key) else found

    def sender(self, client: str) -> Sender:
        """Whose requests a client's are, by the label that `check` gave it."""
        if not client:
            return Sender()
        group = self._groups.get(client)
        namespace = "" if self.shares_prefixes else f"group {group}" if group is not None else client
        return Sender(client, namespace, is_admin=client == ADMIN)

    def is_admin(self, key: str) -> bool:
        requested = digest(key)
        return any([hmac.compare_digest(known, requested) for known in self._admin_digests])

    def check(self, request: Request) -> str:
        """The client's label; "" when no keys are needed. Raises 401."""
        self.refresh()
        if self.is_open:
            return ""
        label = self.label(given_key(request))
        if label is None:
            message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise HTTPFailure(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return label

    def check_admin(self, request: Request) -> None:
        """Raises 403 unless the request carries an admin key."""
        if not self._admin_digests:
            raise HTTPFailure(403, "admin routes are off; start the server with an admin key", code="admin_is_off")
        if not self.is_admin(given_key(request)):
            raise HTTPFailure(403, "this needs the admin key; send it as 'Authorization: Bearer KEY'", code="not_admin")


def given_key(request: Request) -> str:
    """The key that a request carries, as OpenAI's or as Anthropic's clients send it; "" without one."""
    bearer = request.headers.get("authorization", "")
    given = bearer[7:] if bearer[:7].lower() == "bearer " else request.headers.get("x-api-key", "")
    # Header bytes arrive as latin-1 text; keys are compared as UTF-8.
    return given.encode("latin-1").decode(errors="replace").strip()
