"""Tokenizer folders: tokenizer.json, tokenizer_config.json and the chat template, in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os.path import lexists
from pathlib import Path
from typing import Any

import tokenizers

from hyla.checkpoints import tiktoken_files
from hyla.checkpoints.chat_template import ChatTemplate
from hyla.checkpoints.library_errors import failures_as
from hyla.checkpoints.template_files import read_templates, write_templates
from hyla.checkpoints.templates import deepseek_v32
from hyla.checkpoints.templates.protocol import ChatFormat
from hyla.errors import CheckpointError, RequestError
from hyla.json_files import read_json, write_json
from hyla.whole_files import read_whole, write_whole

MOST_BYTES = 256 << 20
"""Of a tokenizer.json."""
FILE = "tokenizer.json"
SPECIAL_KEYS = ("bos_token", "eos_token", "pad_token", "unk_token")
PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')
SORTS_TOOLS = "hyla_sorts_tools"
"""A key of ours in a saved tokenizer_config.json: its publishers' program sorts the keys of tools for the template."""


class Tokenizer:
    """Text to token ids and back, and conversations to prompts.

    backend: the `tokenizers.Tokenizer`, for what is not wrapped here (streaming decoders).
    special: text of the special tokens by role (`bos_token`, `eos_token`, `pad_token`, `unk_token`).
    chat_template: a template's text, texts by name, or another format.
    settings: the other keys of tokenizer_config.json, kept as they were read.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special: dict[str, str] | None = None,
        chat_template: str | Mapping[str, str] | ChatFormat | None = None,
        settings: dict | None = None,
        source: bytes | None = None,
    ):
        """source: the tokenizer.json that `backend` was read from; one that is unchanged is saved as these bytes."""
        self.backend = backend
        self._source = source
        self.special = dict(special or {})
        self.settings = dict(settings or {})
        is_text = isinstance(chat_template, str | Mapping)
        self.chat_template: ChatFormat | None = ChatTemplate(chat_template) if is_text else chat_template
        for role, text in self.special.items():
            if self.token_id(text) is None:
                raise CheckpointError(
                    f"tokenizer_config.json: {role} = {text!r} is not in tokenizer.json; add it there or remove the key"
                )

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary: one more than the largest token id, added tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def token_id(self, text: str) -> int | None:
        """Id of one token's text, None when the vocabulary does not have it."""
        try:
            return self.backend.token_to_id(text)
        except UnicodeEncodeError:  # half of a surrogate pair, which no token has
            return None

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of all special tokens: those that `decode` leaves out."""
        return tuple(token.content for token in self.backend.get_added_tokens_decoder().values() if token.special)

    def _special_id(self, role: str) -> int | None:
        return self.token_id(self.special[role]) if role in self.special else None

    @property
    def bos_token_id(self) -> int | None:
        return self._special_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._special_id("pad_token")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. add_special_tokens: let tokenizer.json's own template add e.g. a first token.

        Raises RequestError for a text that the tokenizer fails on.
        """
        with failures_as(lambda reason: _not_encoded(text, reason)):
            # The library lets other threads run in `encode_batch` alone, and megabytes of text take it seconds.
            return self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that do not form a character (yet) become U+FFFD.

        Raises RequestError for ids that the tokenizer fails on.
        """
        with failures_as(lambda reason: RequestError(f"the model's tokenizer fails on these token ids: {reason}")):
            return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def render_chat(
        self, messages: list[dict], /, *, tools: list[dict] | None = None, add_generation_prompt: bool = True, **names
    ) -> str:
        """The prompt text of a conversation; `names` reach the template (e.g. enable_thinking=False).

        Raises RequestError when there is no template or it refuses the messages.
        """
        if self.chat_template is None:
            raise RequestError(
                "this model has no chat template; use the completions endpoint or a raw prompt", "messages"
            )
        if self.settings.get(SORTS_TOOLS) is True:
            tools = _sorted(tools)
        context = {**self.special, "tools": tools, "documents": None, **names}
        return self.chat_template.render(messages, add_generation_prompt=add_generation_prompt, **context)

    def encode_chat(self, messages: list[dict], /, **options) -> list[int]:
        """Token ids of `render_chat`: the template writes the special tokens itself."""
        return self.encode(self.render_chat(messages, **options), add_special_tokens=False)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat templates into a folder. Raises OSError."""
        folder = Path(folder)
        write_whole(folder / FILE, self._published() or self.backend.to_str(pretty=True))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self.settings, **self.special}
        write_json(folder / "tokenizer_config.json", settings)
        if self.chat_template is not None:
            write_templates(folder, self.chat_template.sources)

    def _published(self) -> str | None:
        """tokenizer.json as it was read, every byte of it; None where there is none, or the backend is another now."""
        if self._source is None or parse_backend(self._source, FILE).to_str() != self.backend.to_str():
            return None
        return self._source.decode("utf-8")


def _not_encoded(text: str, reason: str) -> RequestError:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"character {error.start} is half of a surrogate pair, which is none of Unicode's; leave it out"
    else:
        reason += "; its tokenizer.json may be broken"
    return RequestError(f"the model's tokenizer fails on this text: {reason}")


def _sorted(value: Any) -> Any:
    """The same with the keys of all objects in order."""
    if isinstance(value, Mapping):
        return {key: _sorted(own) for key, own in sorted(value.items())}
    return [_sorted(own) for own in value] if isinstance(value, list) else value


def _token_text(value) -> str | None:
    """A special token is stored as its text or as a dict with `content`."""
    return value.get("content") if isinstance(value, dict) else value


def parse_backend(source: bytes, place: object) -> tokenizers.Tokenizer:
    """A tokenizer.json as a tokenizer. place: for messages. Raises CheckpointError."""
    with failures_as(
        lambda reason: CheckpointError(f"{place} is not a valid tokenizer: {reason}; fetch or save it again")
    ):
        _check_prefix(source)
        backend = tokenizers.Tokenizer.from_str(source.decode("utf-8-sig"))
        _forget_training(backend)
        # Some files can be read and then panic on every text. That a vocabulary lacks these letters is no fault.
        with suppress(Exception):
            backend.decode(backend.encode_batch(["a b"])[0].ids)
    return backend


def _check_prefix(source: bytes) -> None:
    """Raise ValueError for merges without the prefix that they should have: the library aborts the whole process."""
    if not PREFIX.search(source):
        return
    model = json.loads(source).get("model", {})
    prefix = model.get("continuing_subword_prefix")
    for merge in model.get("merges", []):
        right = merge.partition(" ")[2] if isinstance(merge, str) else merge[1]
        if not right.startswith(prefix):
            raise ValueError(f"the merge {merge!r} lacks the continuing_subword_prefix {prefix!r}")


def _forget_training(backend: tokenizers.Tokenizer) -> None:
    """Settings that training left in tokenizer.json and that would change prompts: here a text is whole and alone, and
    its ids are always the same."""
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer in one of the forms that are read."""
    # A link to nowhere is a broken tokenizer, not none.
    return lexists(folder / FILE) or lexists(folder / tiktoken_files.FILE)


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Read a published tokenizer: tokenizer.json, else Kimi's tiktoken.model. Nothing in the folder is executed.

    Raises CheckpointError when it is missing or broken, or the other files do not fit it.
    """
    if not has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} has no {FILE} and no {tiktoken_files.FILE}; Hyla reads only tokenizers saved in these formats"
        )
    file, config_file = folder / FILE, folder / "tokenizer_config.json"
    settings = read_json(config_file) if lexists(config_file) else {}
    source = None
    if lexists(file):
        try:
            source = read_whole(file, MOST_BYTES)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}; fetch or save it again") from error
        backend = parse_backend(source, file)
    else:
        backend = tiktoken_files.tiktoken_backend(folder, settings)
        # What is saved from here on has a tokenizer.json, and needs no program.
        settings = {key: value for key, value in settings.items() if key not in ("auto_map", "tokenizer_class")}
        settings[SORTS_TOOLS] = True
    templates = read_templates(folder, settings)
    special = {}
    for role in SPECIAL_KEYS:
        text = _token_text(settings.pop(role, None))
        if text is not None and not isinstance(text, str):
            raise CheckpointError(f"{config_file}: {role} = {json.dumps(text)} must be a text or have a `content`")
        if text is not None:
            special[role] = text
    form = ChatTemplate(templates, f"the chat template of {folder}") if templates else _family_format(folder, backend)
    return Tokenizer(backend, special=special, chat_template=form, settings=settings, source=source)


def _family_format(folder: Path, backend: tokenizers.Tokenizer) -> ChatFormat | None:
    """The format of a family that publishes no template."""
    config_file = folder / "config.json"
    family = read_json(config_file).get("model_type") if lexists(config_file) else None
    if family != "deepseek_v32" or any(backend.token_to_id(token) is None for token in deepseek_v32.TOKENS):
        return None
    return deepseek_v32.DeepSeekV32()
