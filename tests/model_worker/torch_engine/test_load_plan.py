"""How `auto` is resolved, on machines that stand-ins for CUDA describe."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from model_worker.loading.load_errors import LoadError, UnavailableOptionError
from model_worker.loading.model_files import read_model_files
from model_worker.loading.schemes import QuantizationOptions
from model_worker.torch_engine.load_plan import LoadPlan, LoadSettings
from model_worker.torch_engine.pretrained import load_pretrained
from tests.model_worker.tiny_models import tiny_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama", torch.float32).save_pretrained(folder)
    return read_model_files(folder)


@pytest.fixture
def gpus(monkeypatch):
    """Call it with how many there are."""

    def there_are(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: count - 1)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 * (device + 1), 9000))

    return there_are


def plan(files, **settings):
    return LoadPlan.of(LoadSettings(model=files.path, **settings), files)


@pytest.mark.parametrize(
    ("count", "asked", "scheme"),
    [(0, "auto", "int8"), (1, "auto", "bnb-nf4"), (1, "none", "none"), (0, "bnb-nf4", "bnb-nf4")],
)
def test_auto_is_the_scheme_that_pays_on_the_device(files, gpus, count, asked, scheme):
    gpus(count)
    assert plan(files, quantization=asked).scheme == scheme


def test_on_a_gpu_nothing_quantized_computes_in_float32_unless_someone_says_so(files, gpus):
    gpus(1)
    assert files.dtype == "float32"
    for scheme in ("bnb-nf4", "bnb-fp4", "bnb-int8", "int8"):
        resolved = plan(files, quantization=scheme)
        assert (resolved.dtype, resolved.compute_dtype) == (torch.bfloat16, torch.bfloat16)
    said = QuantizationOptions(compute_dtype="float32")
    assert plan(files, quantization="bnb-nf4", quantization_options=said).compute_dtype == torch.float32


def test_an_option_that_the_resolved_scheme_does_not_use_is_refused(files, gpus):
    gpus(0)
    with pytest.raises(UnavailableOptionError, match=r"--bnb-double-quantization is for .* the quantization is int8"):
        plan(files, quantization_options=QuantizationOptions(double_quantization=True))


@pytest.mark.parametrize(("count", "spread"), [(1, False), (3, True)])
def test_a_device_map_spreads_a_model_where_there_is_something_to_spread_it_over(files, gpus, count, spread):
    gpus(count)
    resolved = plan(files, device_map="auto")
    assert (resolved.spread, str(resolved.device)) == (spread, "cuda:0")
    assert not plan(files).spread


@pytest.mark.parametrize(("count", "device"), [(0, "auto"), (2, "cpu")])
def test_a_device_map_without_gpus_is_refused(files, gpus, count, device):
    gpus(count)
    with pytest.raises(UnavailableOptionError, match=r"^--device-map auto spreads a model over CUDA devices"):
        plan(files, device=device, device_map="auto")


def test_accelerate_places_a_spread_model_on_the_gpus_alone(files, gpus, monkeypatch):
    gpus(2)
    asked = {}

    def from_pretrained(_path, **keywords):
        asked.update(keywords)
        raise RuntimeError("there are no such devices")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(LoadError, match="no such devices"):
        load_pretrained(files.path, plan(files, device_map="auto", quantization="none"), lambda _: None)
    assert asked["device_map"] == "auto"
    assert asked["max_memory"] == {0: 900, 1: 1800}
    with pytest.raises(LoadError, match="no such devices"):
        load_pretrained(files.path, plan(files, quantization="none"), lambda _: None)
    assert (asked["device_map"], asked["max_memory"]) == ({"": torch.device("cuda", 1)}, None)


def test_what_is_spread_over_several_devices_is_not_compiled(files, gpus):
    gpus(2)
    assert plan(files, device_map="auto").spread
    with pytest.raises(UnavailableOptionError, match="--compile: not for a model that --device-map auto spreads"):
        plan(files, device_map="auto", compile=True)
    assert not plan(files, compile=True).spread
