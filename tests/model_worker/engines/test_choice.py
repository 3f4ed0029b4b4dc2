"""What is said on the command line reaches the loader."""

from pathlib import Path

from model_worker.engines.choice import load_engine
from model_worker.loading.schemes import QuantizationOptions
from model_worker.settings import WorkerSettings
from model_worker.torch_engine import loader
from rpc.settings import load_settings


def test_every_option_of_quantization_reaches_the_loader(monkeypatch):
    heard = []
    monkeypatch.setattr(loader, "load_engine", lambda settings, _progress: heard.append(settings))
    flags = [
        *("--model", "/models/mill", "--device-map", "auto", "--quantization", "bnb-fp4", "--bnb-double-quantization"),
        *("--bnb-compute-dtype", "float16", "--bnb-int8-threshold", "6.5"),
        *("--quantization-skip-modules", "lm_head", "--quantization-skip-modules", "layers.0"),
    ]
    load_engine(load_settings(WorkerSettings, "worker", flags, {}), lambda _: None)
    [settings] = heard
    assert (settings.model, settings.device_map, settings.quantization) == (Path("/models/mill"), "auto", "bnb-fp4")
    assert settings.quantization_options == QuantizationOptions(
        double_quantization=True, compute_dtype="float16", int8_threshold=6.5, skip_modules=("lm_head", "layers.0")
    )
