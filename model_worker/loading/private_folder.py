"""A folder that code is loaded from: whoever else can write there runs what they like in this process."""

from __future__ import annotations

import os
from pathlib import Path

from model_worker.loading.load_errors import UnavailableOptionError

CODE_FOLDER = Path("~/.cache/tokenmill/compiled")  # for what is compiled here, unless another is given
_WRITABLE_BY_OTHERS = 0o022
_ROOT = 0


def private_folder(folder: Path, option: str) -> Path:
    """Return `folder`, `~` expanded, which is made where it is missing and only this user, or root, may write to.

    Errors: UnavailableOptionError, naming the `option` that the folder was given with.
    """
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise UnavailableOptionError(f"{option} {folder}: {error.strerror}") from error
    except RuntimeError as error:  # of expanduser
        raise UnavailableOptionError(f"{option} {folder}: {error}") from error
    if found.st_uid not in {_ROOT, os.geteuid()} or found.st_mode & _WRITABLE_BY_OTHERS:
        raise UnavailableOptionError(
            f"{option} {folder}: other users may write there, and code is loaded from it: give a folder that is this "
            "user's alone (chmod go-w), or one in it that does not exist yet"
        )
    return folder
