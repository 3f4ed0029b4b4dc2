"""Reads the JSON files that describe a model or an adapter. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_worker.loading.load_errors import ModelFolderError


def read_json_object(file: Path) -> dict[str, Any]:
    """Return the object in `file`. Errors: ModelFolderError when it cannot be read, or is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFolderError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{file} is not a JSON object")
    return content
