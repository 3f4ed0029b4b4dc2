"""A tokenizer whose control tokens have names that nobody can write: every text is plain text to it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

# The space of SentencePiece: some tokenizers list runs of it among their added tokens.
_METASPACE = "▁"


def control_literals(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the text of every control token with its id: all added tokens but those made of white space.

    Runs of spaces and newlines are added tokens in some models (GPT-NeoX, Gemma), and text all the same.
    """
    added = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
    return {text: token_id for text, token_id in added.items() if text.replace(_METASPACE, " ").strip()}


def secret_names(literals: Mapping[str, int]) -> dict[str, str]:
    """Return an unguessable name for each literal.

    Their first and last characters stay: the library looks at them when a token must stand between non-words or
    takes the white space around it. The rest survives normalization: lower-case, ASCII, no white space.
    """
    secret = secrets.token_hex(16)
    return {text: f"{text[0]}{secret}{index:06x}{text[-1]}" for index, text in enumerate(literals)}


def rename_tokens(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """Return the same tokenizer, the same ids and flags, where the tokens in `names` are called by their new names.

    So a literal in a text is split like any other text, while a new name in it becomes the control token, with the
    library's own treatment of the white space around it. Post-processors work with ids and need no change.
    """
    document = json.loads(tokenizer.to_str())
    for token in document["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    _rename_model(document["model"], names)
    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))


def _rename_model(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename in the vocabulary too: its entries would turn a literal back into the control token."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): token_id for text, token_id in vocabulary.items()}
    else:  # Unigram: [text, score], the id is the index
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if left not in names and right not in names and left + right[prefix:] not in names
        ]
