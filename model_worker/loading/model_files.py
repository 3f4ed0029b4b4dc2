"""What a local model folder says about itself, read before anything heavy is loaded. No torch, no transformers here.

Only safetensors are loaded, and no code that comes with a model: both are refused by name rather than ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_worker.engine import GenerationDefaults
from model_worker.loading.load_errors import ModelFolderError
from model_worker.loading.safetensors_check import check_safetensors

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# The families' names for the longest sequence they were made for, in tokens.
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A folder that can be loaded, and what its files say (nothing here is a default of some library's class)."""

    path: Path
    context_length: int | None  # tokens; None where config.json does not tell
    eos_token_ids: frozenset[int]
    defaults: GenerationDefaults
    dtype: str | None  # the checkpoint's, for example "bfloat16"


def read_model_files(path: Path) -> ModelFiles:
    """Check the folder `path` and read its settings. Errors: ModelFolderError, one line naming the folder or file."""
    if not path.is_dir():
        raise ModelFolderError(f"model folder {path} does not exist")
    config = _read_json(path / "config.json")
    if "auto_map" in config:
        raise ModelFolderError(f"{path / 'config.json'} asks for code of its own (auto_map), which is never run")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise ModelFolderError(f"{path} is quantized already ({method}); give the original weights")
    for file in _weight_files(path):
        check_safetensors(file)
    generation_file = path / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.exists() else {}
    text = config.get("text_config") or config
    return ModelFiles(
        path=path,
        context_length=_first(_CONTEXT_KEYS, text),
        eos_token_ids=_eos_token_ids(generation, config, text),
        defaults=GenerationDefaults(
            **{name: generation[name] for name in GenerationDefaults.__dataclass_fields__ if name in generation}
        ),
        dtype=_first(("dtype", "torch_dtype"), text) or _first(("dtype", "torch_dtype"), config),
    )


def _weight_files(path: Path) -> list[Path]:
    """Return the safetensors files that make up the weights; those that an index names all have to be there."""
    if (path / _INDEX).exists():
        shards = sorted(set(_read_json(path / _INDEX).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (path / shard).exists()]
        if missing or not shards:
            raise ModelFolderError(f"{path} lacks {len(missing)} of {len(shards)} weight files, first {missing[:1]}")
        return [path / shard for shard in shards]
    if (path / _SINGLE).exists():
        return [path / _SINGLE]
    pickled = [file.name for pattern in _PICKLED for file in sorted(path.glob(pattern))]
    if pickled:
        raise ModelFolderError(f"{path} has pickled weights only ({pickled[0]}), which are never loaded")
    raise ModelFolderError(f"{path} has no weights: neither {_SINGLE} nor {_INDEX}")


def _eos_token_ids(*sources: Mapping[str, Any]) -> frozenset[int]:
    """Return the ids that end a sequence, from the first source that names any."""
    for source in sources:
        named = source.get("eos_token_id")
        if named is not None:
            return frozenset(named if isinstance(named, list) else [named])
    return frozenset()


def _first(names: tuple[str, ...], source: Mapping[str, Any]) -> Any:
    return next((source[name] for name in names if source.get(name) is not None), None)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFolderError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelFolderError(f"{file} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} is not a JSON object")
    return content
