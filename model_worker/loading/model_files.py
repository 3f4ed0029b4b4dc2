"""What a local model folder says about itself, read before anything heavy is loaded. No torch, no transformers here.

Only safetensors are loaded, and no code that comes with a model: both are refused by name rather than ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_worker.engine import GenerationDefaults
from model_worker.loading.json_file import read_json_object
from model_worker.loading.load_errors import ModelFolderError
from model_worker.loading.safetensors_check import check_safetensors
from model_worker.loading.schemes import Scheme
from model_worker.loading.stated_values import stated_context, stated_defaults, stated_ids, stated_object
from model_worker.loading.stored_quantization import stored_scheme

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
    eos_file: Path  # that names them
    defaults: GenerationDefaults
    dtype: str | None  # the checkpoint's, for example "bfloat16"
    stored_scheme: Scheme | None = None  # in which the weights are quantized already

    def check_eos(self, vocabulary_size: int) -> None:
        """Errors: ModelFolderError when an id that ends a sequence is none of the model's."""
        largest = max(self.eos_token_ids, default=0)
        if largest >= vocabulary_size:
            message = f"{self.eos_file}: eos_token_id {largest} is outside the vocabulary of {vocabulary_size} ids"
            raise ModelFolderError(message)


def read_model_files(path: Path) -> ModelFiles:
    """Check the folder `path` and read its settings. Errors: ModelFolderError, one line naming the folder or file."""
    if not path.is_dir():
        raise ModelFolderError(f"model folder {path} does not exist")
    config_file = path / "config.json"
    config = read_json_object(config_file)
    if "auto_map" in config:
        raise ModelFolderError(f"{config_file} asks for code of its own (auto_map), which is never run")
    text = stated_object(config, "text_config", config_file) or config
    scheme = stored_scheme(config, config_file) or stored_scheme(text, config_file)
    for file in _weight_files(path):
        check_safetensors(file)
    generation_file = path / "generation_config.json"
    generation = read_json_object(generation_file) if generation_file.exists() else {}
    eos_file, eos_token_ids = _eos_token_ids((generation_file, generation), (config_file, config), (config_file, text))
    return ModelFiles(
        path=path,
        context_length=stated_context(text, _CONTEXT_KEYS, config_file),
        eos_token_ids=eos_token_ids,
        eos_file=eos_file,
        defaults=stated_defaults(generation, generation_file),
        dtype=_dtype(text) or _dtype(config),
        stored_scheme=scheme,
    )


def _weight_files(path: Path) -> list[Path]:
    """Return the safetensors files that make up the weights; those that an index names all have to be there."""
    if (path / _INDEX).exists():
        shards = _shards(path / _INDEX)
        missing = [shard for shard in shards if not (path / shard).is_file()]
        if missing or not shards:
            raise ModelFolderError(f"{path} lacks {len(missing)} of {len(shards)} weight files, first {missing[:1]}")
        return [path / shard for shard in shards]
    if (path / _SINGLE).exists():
        return [path / _SINGLE]
    pickled = [file.name for pattern in _PICKLED for file in sorted(path.glob(pattern))]
    if pickled:
        raise ModelFolderError(f"{path} has pickled weights only ({pickled[0]}), which are never loaded")
    raise ModelFolderError(f"{path} has no weights: neither {_SINGLE} nor {_INDEX}")


def _shards(index: Path) -> list[str]:
    """Return the files that an index names, each in the folder of the index: nothing outside it is ever read."""
    shards = list((stated_object(read_json_object(index), "weight_map", index) or {}).values())
    strangers = [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]
    if strangers:
        raise ModelFolderError(f"{index} names a weight file outside its folder: {strangers[0]!r:.80}")
    return sorted(set(shards))


def _eos_token_ids(*sources: tuple[Path, Mapping[str, Any]]) -> tuple[Path, frozenset[int]]:
    """Return the ids that end a sequence, from the first source that names any, and the source's file."""
    for file, source in sources:
        named = source.get("eos_token_id")
        if named is not None:
            return file, stated_ids(named, file)
    return sources[0][0], frozenset()


def _dtype(source: Mapping[str, Any]) -> str | None:
    """Return the dtype's name; None too for what is no name: only `auto` on a GPU asks for it."""
    named = source.get("dtype") or source.get("torch_dtype")
    return named if isinstance(named, str) else None
