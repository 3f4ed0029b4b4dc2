"""The CPU kernel in C++ (`native.cpp`): all rows of a step in one call per layer, instead of one call per row.

It is compiled where it runs, for the processor it runs on, and only where `--compile` asks for compiled code.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

import torch

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.torch_engine.attention.kernel import Heads, Options
from model_worker.torch_engine.kv_storage import LayerShape, LayerStorage
from model_worker.torch_engine.step_layout import StepLayout

_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_COMPILER_SECONDS = 120.0
_LONGEST_REASON = 300  # characters of what the compiler has to say
_FUNCTIONS = {torch.float32: "attend_float32", torch.float64: "attend_float64"}


class _Layer(ctypes.Structure):
    _fields_ = (
        ("kv_heads", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("key_size", ctypes.c_int64),
        ("value_size", ctypes.c_int64),
        ("scale", ctypes.c_double),
        ("softcap", ctypes.c_double),
        ("sinks", ctypes.c_void_p),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("count", ctypes.c_void_p),
    )


class _Heads(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("head_stride", ctypes.c_int64), ("token_stride", ctypes.c_int64))


class NativeAttention:
    """An AttentionKernel over the compiled library, for float32 and float64.

    Errors: UnavailableOptionError when the library cannot be loaded, as where its folder is mounted noexec.
    """

    def __init__(self, library: Path) -> None:
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise UnavailableOptionError(f"--compile-cache: {error}") from error
        self._functions = {dtype: getattr(loaded, name) for dtype, name in _FUNCTIONS.items()}
        for function in self._functions.values():
            function.restype = None
            function.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64]

    @staticmethod
    def supports(shape: LayerShape) -> bool:
        """Whether a layer of this `shape` can be computed."""
        return shape.device.type == "cpu" and shape.dtype in _FUNCTIONS

    def __call__(self, heads: Heads, store: LayerStorage, layout: StepLayout, options: Options) -> torch.Tensor:
        """Return [T, heads, value_size]."""
        # From here on they are addresses: another dtype would be read as this one, beyond its end.
        assert heads.query.dtype == heads.key.dtype == heads.value.dtype == store.keys.dtype == store.values.dtype
        query, key, value = (_dense(tensor) for tensor in heads)
        first, count = layout.token_histories(options.window)
        sinks = None if options.sinks is None else options.sinks.to(query.dtype).contiguous()
        layer = _Layer(
            key.shape[0],
            query.shape[0] // key.shape[0],
            key.shape[2],
            value.shape[2],
            query.shape[2] ** -0.5 if options.scaling is None else options.scaling,
            options.softcap or 0.0,
            None if sinks is None else sinks.data_ptr(),
        )
        step = _Step(query.shape[1], layout.slots(key.device).data_ptr(), first.data_ptr(), count.data_ptr())
        out = query.new_empty(query.shape[1], query.shape[0], value.shape[2])
        self._functions[query.dtype](
            ctypes.byref(layer),
            ctypes.byref(step),
            ctypes.byref(_place(query)),
            ctypes.byref(_place(key)),
            ctypes.byref(_place(value)),
            store.keys.data_ptr(),
            store.values.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out


def build(folder: Path) -> Path:
    """Compile the kernel into `folder`, unless it stands there already, and return the library's path.

    Nobody else may write to `folder`: what stands there is run. The library's name holds a digest of source, flags and
    compiler, so that another version is another file.

    Errors: UnavailableOptionError when there is no compiler or it fails.
    """
    compiler = cpp_compiler()
    made_from = [_SOURCE.read_text(), *_FLAGS, compiler, _processor()]
    library = folder / f"attention-{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as unfinished:  # renamed when whole: another worker may build the same
        made = Path(unfinished) / library.name
        try:
            subprocess.run(  # noqa: S603 - the operator's compiler, our source
                [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)],
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


def _place(tensor: torch.Tensor) -> _Heads:
    return _Heads(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _processor() -> str:
    """Return what tells one processor's instruction set from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
