"""The folders of adapters, before any tensor is read."""

from pathlib import Path

import pytest

from model_worker.loading.adapter_files import adapter_folders, read_adapter_files
from model_worker.loading.load_errors import AdapterError, ModelFolderError, UnavailableOptionError
from tests.model_worker.lora_folders import write_adapter
from tests.model_worker.tiny_models import tiny_model


@pytest.fixture
def folder(tmp_path):
    return write_adapter(tmp_path / "sql", tiny_model("llama"), ("q_proj",), rank_pattern={"v_proj": 12})


def test_adapters_are_named_by_the_operator_or_by_their_folders():
    folders = adapter_folders(["/adapters/sql", "legal=/adapters/v2"], "base")
    assert folders == {"sql": Path("/adapters/sql"), "legal": Path("/adapters/v2")}


@pytest.mark.parametrize("values", [["base=/a"], ["/adapters/base"], ["x=/a", "x=/b"], ["=/a"], ["x="]])
def test_a_name_that_is_empty_or_taken_is_refused(values):
    with pytest.raises(UnavailableOptionError, match="--lora-modules"):
        adapter_folders(values, "base")


def test_a_folder_is_read_with_its_configuration(folder):
    [adapter] = read_adapter_files({"sql": folder}, max_rank=12)
    assert (adapter.name, adapter.weights) == ("sql", folder / "adapter_model.safetensors")
    assert adapter.config.rank == 4


def test_a_rank_above_the_largest_is_refused_wherever_it_is_stated(folder):
    with pytest.raises(AdapterError, match="adapter sql has rank 12, more than --max-lora-rank 11"):
        read_adapter_files({"sql": folder}, max_rank=11)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="does not exist"):
        read_adapter_files({"sql": tmp_path / "sql"}, max_rank=8)


def test_pickled_weights_are_never_loaded(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelFolderError, match=r"no adapter_model\.safetensors; pickled weights are never loaded"):
        read_adapter_files({"sql": folder}, max_rank=16)


def test_weights_that_were_cut_short_are_refused(folder):
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ModelFolderError, match="incomplete"):
        read_adapter_files({"sql": folder}, max_rank=16)
