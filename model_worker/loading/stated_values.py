"""Whether what a model's own files state is of the kind and in the range that the contract gives it.

A value out of its range would be met again in the middle of a generation, where it hurts everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model_worker.engine import GenerationDefaults
from model_worker.loading.load_errors import ModelFolderError


def stated_defaults(generation: Mapping[str, Any], file: Path) -> GenerationDefaults:
    """Return the sampling settings in `generation`, the content of `file`. Errors: ModelFolderError."""
    stated = {name: generation[name] for name in _SAMPLING if generation.get(name) is not None}
    for name, value in stated.items():
        accepts, wanted = _SAMPLING[name]
        if not accepts(value):
            raise _out_of_range(file, name, wanted, value)
    return GenerationDefaults(**stated)


def stated_ids(named: Any, file: Path) -> frozenset[int]:
    """Return the ids in an `eos_token_id`, which may be one or a list. Errors: ModelFolderError."""
    ids = named if isinstance(named, list) else [named]
    if not all(_is_integer(token_id) and token_id >= 0 for token_id in ids):
        raise _out_of_range(file, "eos_token_id", "a token id or a list of them", named)
    return frozenset(ids)


def stated_context(source: Mapping[str, Any], names: tuple[str, ...], file: Path) -> int | None:
    """Return the context length that `source` gives under the first of `names` it has, in tokens.

    Errors: ModelFolderError.
    """
    for name in names:
        value = source.get(name)
        if value is not None:
            if not _is_integer(value) or value < 2:
                raise _out_of_range(file, name, "at least 2 tokens", value)
            return int(value)
    return None


def stated_object(source: Mapping[str, Any], name: str, file: Path) -> Mapping[str, Any] | None:
    """Return the object that `source` has under `name`; None where it is absent or null. Errors: ModelFolderError."""
    value = source.get(name)
    if value is not None and not isinstance(value, dict):
        raise _out_of_range(file, name, "an object", value)
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _between(least: float, most: float, *, above: bool = False) -> tuple[Callable[[Any], bool], str]:
    def accepts(value: Any) -> bool:
        is_number = isinstance(value, float) or _is_integer(value)
        return is_number and (least < value if above else least <= value) and value <= most

    return accepts, f"a number {'above' if above else 'from'} {least:g} to {most:g}"


def _out_of_range(file: Path, name: str, wanted: str, value: object) -> ModelFolderError:
    return ModelFolderError(f"{file}: {name} must be {wanted}, not {value!r:.80}")


# The ranges of SamplingParams, without what no file is asked for.
_SAMPLING: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "do_sample": (lambda value: isinstance(value, bool), "true or false"),
    "temperature": _between(0, 100),
    "top_k": (lambda value: _is_integer(value) and 0 <= value < 2**31, "a count, where 0 is off"),
    "top_p": _between(0, 1, above=True),
    "min_p": _between(0, 1),
    "typical_p": _between(0, 1, above=True),
    "repetition_penalty": _between(0, 10, above=True),
}
