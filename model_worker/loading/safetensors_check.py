"""Whether a safetensors file is whole, told from its header and its size: an interrupted download is found at once.

The format: a little-endian uint64 with the header's length, the header (JSON: name to `data_offsets`), then the data.
"""

from __future__ import annotations

import json
from pathlib import Path

from model_worker.loading.load_errors import ModelFolderError

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def check_safetensors(file: Path) -> None:
    """Errors: ModelFolderError when `file` is no safetensors file, or shorter or longer than its header says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise ModelFolderError(f"{file} is not a safetensors file (a Git LFS pointer, or cut short?)")
        try:
            header = json.loads(stream.read(length))
            end = max(
                (tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0
            )
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelFolderError(f"{file} has a broken safetensors header") from error
    if size != 8 + length + end:
        raise ModelFolderError(f"{file} has {size} bytes where its header says {8 + length + end}: incomplete?")
