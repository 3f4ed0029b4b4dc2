"""Which engine the settings ask for. What an engine needs is imported only when it is the one: torch takes seconds."""

from __future__ import annotations

from collections.abc import Callable

from model_worker.engine import Engine
from model_worker.loading.load_progress import LoadProgress
from model_worker.settings import WorkerSettings
from rpc.cpu import granted_cores


def load_engine(settings: WorkerSettings, progress: Callable[[LoadProgress], None]) -> Engine:
    """Load the engine; takes seconds to minutes. Errors: LoadError."""
    return _fake(settings, progress) if settings.engine == "fake" else _transformers(settings, progress)


def _transformers(settings: WorkerSettings, progress: Callable[[LoadProgress], None]) -> Engine:
    from model_worker.torch_engine import loader  # noqa: PLC0415 - see the top of the file

    wanted = loader.LoadSettings(
        model=settings.model,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        double_quantization=settings.bnb_double_quantization,
        max_model_len=settings.max_model_len,
        kv_cache_memory=settings.kv_cache_memory,
        threads=settings.threads or granted_cores(),
    )
    return loader.load_engine(wanted, progress)


def _fake(settings: WorkerSettings, progress: Callable[[LoadProgress], None]) -> Engine:
    from model_worker.engines.fake_engine import FakeEngine, FakeModel  # noqa: PLC0415 - see the top of the file

    context_length = settings.max_model_len or FakeModel().context_length
    engine = FakeEngine(FakeModel(context_length=context_length, kv_capacity_tokens=8 * context_length))
    progress(LoadProgress("ready", 1.0))
    return engine
