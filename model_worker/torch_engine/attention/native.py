"""The CPU kernel in C++ (`native/attention.cpp`): all rows of a step in one call per layer, not one call per row."""

from __future__ import annotations

import ctypes

import torch

from model_worker.torch_engine.attention.kernel import Heads, Options
from model_worker.torch_engine.kv_storage import LayerShape, LayerStorage
from model_worker.torch_engine.native.library import NativeLibrary
from model_worker.torch_engine.step_layout import StepLayout

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
    """An AttentionKernel over the compiled library, for float32 and float64."""

    def __init__(self, library: NativeLibrary) -> None:
        self._functions = {dtype: getattr(library.functions, name) for dtype, name in _FUNCTIONS.items()}
        for function in self._functions.values():
            function.restype = None
            function.argtypes = [ctypes.c_void_p] * 8

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
        )
        return out


def _place(tensor: torch.Tensor) -> _Heads:
    return _Heads(tensor.data_ptr(), tensor.stride(0), tensor.stride(1))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()
