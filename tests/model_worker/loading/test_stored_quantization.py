"""What a folder's config.json says of weights that are quantized already."""

from pathlib import Path

import pytest

from model_worker.loading.load_errors import ModelFolderError
from model_worker.loading.stored_quantization import stored_scheme

FILE = Path("/models/mill/config.json")


def scheme_of(**said):
    return stored_scheme({"quantization_config": said}, FILE)


def test_weights_of_which_nothing_is_said_are_not_quantized():
    assert stored_scheme({}, FILE) is None
    assert stored_scheme({"quantization_config": None}, FILE) is None


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "bnb-fp4"),
        ({"load_in_4bit": True}, "bnb-fp4"),  # transformers' own default
        ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-int8"),
    ],
)
def test_the_kinds_of_bitsandbytes_are_told_apart(said, scheme):
    assert scheme_of(quant_method="bitsandbytes", **said) == scheme


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "tokenmill-int8"])
def test_any_other_format_is_refused_by_name(method):
    with pytest.raises(ModelFolderError, match=rf"^/models/mill is quantized already \({method}\)"):
        scheme_of(quant_method=method, load_in_4bit=True)


@pytest.mark.parametrize(
    "said", [{}, {"load_in_4bit": "yes"}, {"load_in_4bit": True, "bnb_4bit_quant_type": "af4"}, {"load_in_8bit": 1}]
)
def test_an_unknown_kind_of_bitsandbytes_is_refused(said):
    with pytest.raises(ModelFolderError, match="bitsandbytes, of a kind that is not known"):
        scheme_of(quant_method="bitsandbytes", **said)
