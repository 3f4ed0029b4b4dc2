"""Loads a model folder's tokenizer with transformers and keeps what the service needs of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tokenizer_service.errors import TokenizerFolderError
from tokenizer_service.templates.chat_templates import ChatTemplates


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """One model's tokenizer; immutable, shared by all threads. Ids are in [0, vocabulary_size)."""

    backend: Tokenizer  # neither pads nor truncates
    templates: ChatTemplates
    special_tokens: Mapping[str, str]  # template variables such as bos_token
    vocabulary_size: int  # one more than the largest id
    pad_token_id: int
    bos_token_id: int | None
    adds_bos: bool  # whether the tokenizer itself begins a text with BOS
    eos_token_ids: tuple[int, ...]
    artefact: bytes  # canonical JSON of `backend`: all that is needed to detokenize


def load_tokenizer(folder: Path) -> LoadedTokenizer:
    """Load the tokenizer of a local model folder; nothing is downloaded, no code of the folder is run.

    Errors: TokenizerFolderError.
    """
    _check_files(folder)
    # Here and not above: the import takes seconds, and brings in torch where that is installed.
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TokenizerFolderError(f"{folder}: the tokenizer cannot be loaded: {reason}") from error
    if not tokenizer.is_fast:
        text = f"{type(tokenizer).__name__} has no fast form (tokenizers), and only those are served"
        raise TokenizerFolderError(f"{folder}/tokenizer_config.json: {text}")
    return _kept(tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json")))


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise TokenizerFolderError(f"{folder}: no such folder")
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerFolderError(f"{folder}/tokenizer.json: missing; slow tokenizers are not served{_class(folder)}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        try:
            json.loads(path.read_bytes()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise TokenizerFolderError(f"{path}: not readable as JSON: {error}") from error


def _class(folder: Path) -> str:
    try:
        name = json.loads((folder / "tokenizer_config.json").read_bytes())["tokenizer_class"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" ({name})"


def _kept(tokenizer: Any, in_file: Tokenizer) -> LoadedTokenizer:  # transformers is not typed
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    bos_token_id: int | None = tokenizer.bos_token_id
    eos_token_id: int | None = tokenizer.eos_token_id
    pad_candidates = (tokenizer.pad_token_id, eos_token_id, tokenizer.unk_token_id)
    return LoadedTokenizer(
        backend=backend,
        templates=ChatTemplates(tokenizer.chat_template),
        special_tokens={name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        vocabulary_size=_vocabulary_size(backend),
        pad_token_id=_pad_token_id(in_file, *pad_candidates),
        bos_token_id=bos_token_id,
        adds_bos=bos_token_id is not None and backend.encode("").ids[:1] == [bos_token_id],
        eos_token_ids=() if eos_token_id is None else (eos_token_id,),
        artefact=_canonical(backend),
    )


def _pad_token_id(in_file: Tokenizer, *candidates: int | None) -> int:
    """Padding is masked, so any id will do; a special token is the one that surprises nobody.

    Not every candidate is one of the model's: a pad token that a folder names but has not, transformers adds behind
    the vocabulary of the file.
    """
    special = sorted(i for i, token in in_file.get_added_tokens_decoder().items() if token.special)
    size = _vocabulary_size(in_file)
    return next(i for i in (*candidates, *special, 0) if i is not None and i < size)


def _vocabulary_size(backend: Tokenizer) -> int:
    return max(backend.get_vocab().values()) + 1


def _canonical(backend: Tokenizer) -> bytes:
    document = json.loads(backend.to_str())
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
