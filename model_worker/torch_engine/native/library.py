"""The C++ beside this, compiled where it runs, for the processor it runs on, and only where `--compile` asks for it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

from model_worker.loading.load_errors import UnavailableOptionError

_FOLDER = Path(__file__).parent
_HEADERS = sorted(_FOLDER.glob("*.h"))
_SOURCES = sorted(_FOLDER.glob("*.cpp"))
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-pthread", "-shared", "-fPIC")
_COMPILER_SECONDS = 120.0
_LONGEST_REASON = 300  # characters of what the compiler has to say


class NativeLibrary:
    """The functions, and the threads that they share their work with. One for the whole process and a folder.

    Errors: UnavailableOptionError when the library cannot be built or loaded, as where its folder is mounted noexec.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.functions = ctypes.CDLL(str(_build(folder)))
        except OSError as error:
            raise UnavailableOptionError(f"--compile-cache: {error}") from error
        self.functions.wake_helpers.argtypes = [ctypes.c_int64]
        self.functions.wake_helpers.restype = self.functions.rest_helpers.restype = None

    @contextmanager
    def helpers_awake(self, threads: int) -> Iterator[None]:
        """Let `threads` compute, this one included, until the end of the block; elsewhere this one does alone."""
        self.functions.wake_helpers(threads)
        try:
            yield
        finally:
            self.functions.rest_helpers()


@cache
def native_library(folder: Path) -> NativeLibrary:
    """Return the library in `folder`, built if need be. Errors: UnavailableOptionError."""
    return NativeLibrary(folder)


def _build(folder: Path) -> Path:
    """Compile into `folder`, unless it has been done already, and return the library's path.

    Nobody else may write to `folder`: what stands there is run. The library's name holds a digest of source, flags and
    compiler, so that another version is another file.
    """
    compiler = cpp_compiler()
    parts = [path.read_text() for path in (*_HEADERS, *_SOURCES)]
    made_from = [*parts, *_FLAGS, compiler, *sorted(_processor_features())]
    library = folder / f"tokenmill-{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as unfinished:  # renamed when whole: another worker may build the same
        made = Path(unfinished) / library.name
        try:
            subprocess.run(  # noqa: S603 - the operator's compiler, our source
                [compiler, *_FLAGS, "-o", str(made), *map(str, _SOURCES)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_COMPILER_SECONDS,
            )
        except (subprocess.SubprocessError, OSError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
            reason = shorten(said or str(error), _LONGEST_REASON)
            raise UnavailableOptionError(f"--compile: the C++ compiler {compiler} failed: {reason}") from error
        made.replace(library)
    return library


def cpp_compiler() -> str:
    """Return where the C++ compiler is. Errors: UnavailableOptionError."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise UnavailableOptionError("--compile: there is no C++ compiler (g++, or what CXX names)")
    return compiler


@cache
def _processor_features() -> frozenset[str]:
    """Return what this processor can do, in Linux's words; elsewhere its name alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset({platform.processor()})
    named = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return frozenset(named.partition(":")[2].split())
