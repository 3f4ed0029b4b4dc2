"""A folder that cannot be served is refused before loading, with one line that names what is wrong."""

import json
import struct

import pytest

from model_worker.engine import GenerationDefaults
from model_worker.loading.load_errors import ModelFolderError
from model_worker.loading.model_files import read_model_files

CONFIG = {"model_type": "llama", "max_position_embeddings": 64, "eos_token_id": 2, "dtype": "bfloat16"}


def safetensors(data_bytes: int) -> bytes:
    header = json.dumps({"w": {"dtype": "I8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(data_bytes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(safetensors(10))
    return tmp_path


def rewrite(folder, **config):
    (folder / "config.json").write_text(json.dumps(config))


def shard(folder, *names):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {f"layer{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_complete_folder_says_what_it_is(folder):
    files = read_model_files(folder)
    assert (files.context_length, files.eos_token_ids, files.dtype) == (64, {2}, "bfloat16")
    assert files.defaults == GenerationDefaults()


def test_generation_settings_are_those_written_in_the_file_and_no_others(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "eos_token_id": [7, 9], "max_length": 20})
    )
    files = read_model_files(folder)
    assert files.defaults == GenerationDefaults(do_sample=True, temperature=0.6)
    assert files.eos_token_ids == {7, 9}


@pytest.mark.parametrize(
    ("config", "context_length"),
    [
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 32}, "max_position_embeddings": 5}, 32),
        ({"max_position_embeddings": None, "seq_length": 8}, 8),
        ({"max_position_embeddings": 2}, 2),
        ({}, None),
    ],
)
def test_the_context_length_is_found_under_the_names_that_families_use(folder, config, context_length):
    rewrite(folder, **config)
    assert read_model_files(folder).context_length == context_length


def test_end_of_sequence_ids_may_stand_in_the_text_part(folder):
    rewrite(folder, text_config={"eos_token_id": 0})
    assert read_model_files(folder).eos_token_ids == {0}


def test_all_shards_there_is_complete(folder):
    shard(folder, "a.safetensors", "b.safetensors", "a.safetensors")
    for name in "ab":
        (folder / f"{name}.safetensors").write_bytes(safetensors(4))
    assert read_model_files(folder).path == folder


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match="nowhere does not exist"):
        read_model_files(tmp_path / "nowhere")


def test_a_missing_shard_is_named(folder):
    shard(folder, "a.safetensors", "b.safetensors")
    (folder / "a.safetensors").write_bytes(safetensors(4))
    with pytest.raises(ModelFolderError, match=r"lacks 1 of 2 weight files.*b\.safetensors"):
        read_model_files(folder)


def test_pickled_weights_are_refused_even_where_they_are_all_there_is(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"pickled weights only \(pytorch_model.bin\)"):
        read_model_files(folder)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (safetensors(10)[:-1], "has 79 bytes where its header says 80"),
        (safetensors(10) + b"x", "has 81 bytes where its header says 80"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a safetensors file"),
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "broken safetensors header"),
        (struct.pack("<Q", 8) + b'{"w": 3}', "broken safetensors header"),
    ],
)
def test_weights_that_are_not_whole_are_found_before_loading(folder, content, complaint):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFolderError, match=complaint):
        read_model_files(folder)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        (json.dumps(CONFIG | {"auto_map": {"AutoModel": "evil.Model"}}), "never run"),
        ("[" * 100_000, "not valid JSON"),
        (json.dumps(CONFIG | {"quantization_config": {"quant_method": "gptq"}}), r"quantized already \(gptq\)"),
        (json.dumps(CONFIG | {"quantization_config": "int4"}), "quantization_config must be an object, not 'int4'"),
        (json.dumps(CONFIG | {"text_config": [1]}), r"text_config must be an object, not \[1\]"),
        (json.dumps(CONFIG | {"max_position_embeddings": "128"}), "max_position_embeddings must be .* not '128'"),
        (json.dumps(CONFIG | {"max_position_embeddings": -1}), "max_position_embeddings must be at least 2 .* not -1"),
        (json.dumps(CONFIG | {"max_position_embeddings": 64.0}), "max_position_embeddings must be .* not 64.0"),
        (json.dumps({"n_positions": True}), "n_positions must be .* not True"),
        (json.dumps(CONFIG | {"eos_token_id": -1}), r"config\.json: eos_token_id must be a token id .* not -1"),
        (json.dumps(CONFIG | {"eos_token_id": "</s>"}), "eos_token_id must be"),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused(folder, config, complaint):
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelFolderError, match=complaint):
        read_model_files(folder)


def test_a_quantization_that_is_null_is_none(folder):
    rewrite(folder, **CONFIG, quantization_config=None)
    assert read_model_files(folder).context_length == 64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", 1),
        ("temperature", "0.7"),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 101),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 50.0),
        ("top_k", 2**31),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -1),
        ("typical_p", 0.0),
        ("repetition_penalty", 0),
        ("eos_token_id", [2, -1]),
        ("eos_token_id", [2, None]),
        ("eos_token_id", 2.0),
    ],
)
def test_a_generation_setting_out_of_its_range_is_refused_with_file_and_field(folder, name, value):
    (folder / "generation_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(ModelFolderError, match=rf"generation_config\.json: {name} must be "):
        read_model_files(folder)


def test_generation_settings_at_the_ends_of_their_ranges_are_taken(folder):
    ends = {"do_sample": False, "temperature": 100, "top_k": 0, "top_p": 1, "min_p": 0, "typical_p": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(ends | {"repetition_penalty": 10, "eos_token_id": 0}))
    files = read_model_files(folder)
    assert files.defaults == GenerationDefaults(**ends, repetition_penalty=10)
    assert files.eos_token_ids == {0}


def test_a_generation_setting_that_is_null_is_silent(folder):
    (folder / "generation_config.json").write_text(json.dumps({"top_p": None, "eos_token_id": None}))
    files = read_model_files(folder)
    assert (files.defaults, files.eos_token_ids) == (GenerationDefaults(), {2})


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "sub/a.safetensors", 3])
def test_an_index_names_files_of_its_own_folder_only(folder, name):
    shard(folder, "a.safetensors", name)
    (folder / "a.safetensors").write_bytes(safetensors(4))
    with pytest.raises(ModelFolderError, match=r"index\.json names a weight file outside its folder"):
        read_model_files(folder)


@pytest.mark.parametrize("index", [{"weight_map": ["a"]}, {"weight_map": "a"}])
def test_an_index_without_a_map_is_refused(folder, index):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match="weight_map must be an object"):
        read_model_files(folder)


@pytest.mark.parametrize(
    ("file", "complaint"), [("config.json", "config.json cannot be read"), ("model.safetensors", "has no weights")]
)
def test_a_missing_file_is_named(folder, file, complaint):
    (folder / file).unlink()
    with pytest.raises(ModelFolderError, match=complaint):
        read_model_files(folder)
