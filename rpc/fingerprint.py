"""Fingerprints: do two services mean the same tokens by the same ids?

The vocabulary's is computed from files alone: the worker reads the files next to its weights and loads no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

# State that using a tokenizer leaves behind; it does not change what an id means.
RUNTIME_STATE = ("truncation", "padding")


class FingerprintError(Exception):
    """A tokenizer file is missing or is not JSON; the message names it."""


def vocabulary_fingerprint(folder: Path) -> str:
    """SHA-256, hexadecimal, over the canonical tokenizer.json of `folder` and the tokens that its other files add.

    Canonical: JSON with sorted keys and no white space, without truncation and padding. Added tokens come from
    added_tokens.json and tokenizer_config.json (`added_tokens_decoder`), as sorted pairs of content and id; those that
    tokenizer.json has itself count once, so that it does not matter whether another file repeats them.
    Errors: FingerprintError.
    """
    tokenizer = _read(folder / "tokenizer.json")
    for key in RUNTIME_STATE:
        tokenizer.pop(key, None)
    canonical = {"tokenizer": tokenizer, "added": _added_elsewhere(folder, tokenizer)}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def template_fingerprint(template: str | None) -> str:
    """SHA-256, hexadecimal, of a chat template's text; empty without one."""
    return hashlib.sha256(template.encode()).hexdigest() if template else ""


def _added_elsewhere(folder: Path, tokenizer: dict[str, Any]) -> list[tuple[str, int]]:
    try:
        added = {(text, int(token_id)) for text, token_id in _read_if_there(folder / "added_tokens.json").items()}
        decoder = _read_if_there(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        added |= {(token["content"], int(token_id)) for token_id, token in decoder.items()}
        known = {(token["content"], token["id"]) for token in tokenizer.get("added_tokens") or []}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FingerprintError(f"{folder}: added tokens in a form we do not know") from error
    return sorted(added - known)


def _read_if_there(file: Path) -> dict[str, Any]:
    return _read(file) if file.is_file() else {}


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FingerprintError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise FingerprintError(f"{file}: not JSON") from error
    if not isinstance(content, dict):
        raise FingerprintError(f"{file}: not a JSON object")
    return content
