"""Which option goes with which quantization."""

import pytest

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.loading.schemes import QuantizationOptions

SCHEMES = ("none", "int8", "bnb-nf4", "bnb-fp4", "bnb-int8")
USED = {
    "--bnb-double-quantization": ({"double_quantization": True}, {"bnb-nf4", "bnb-fp4"}),
    "--bnb-compute-dtype": ({"compute_dtype": "float16"}, {"bnb-nf4", "bnb-fp4"}),
    "--bnb-int8-threshold": ({"int8_threshold": 6.0}, {"bnb-int8"}),
    "--quantization-skip-modules": ({"skip_modules": ("lm_head",)}, {"int8", "bnb-nf4", "bnb-fp4", "bnb-int8"}),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("flag", USED)
def test_an_option_that_the_quantization_does_not_use_is_refused_by_name(flag, scheme):
    option, users = USED[flag]
    options = QuantizationOptions(**option)
    if scheme in users:
        options.check(scheme, stored=False)
        return
    with pytest.raises(UnavailableOptionError, match=f"^{flag} is for .*; the quantization is {scheme}$"):
        options.check(scheme, stored=False)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_not_given_is_never_refused(scheme):
    QuantizationOptions().check(scheme, stored=True)


def test_how_weights_are_quantized_is_settled_where_they_are_how_to_compute_is_not():
    for flag in ("--bnb-double-quantization", "--quantization-skip-modules"):
        with pytest.raises(UnavailableOptionError, match=f"^{flag}: the model's weights are quantized already$"):
            QuantizationOptions(**USED[flag][0]).check("bnb-nf4", stored=True)
    QuantizationOptions(compute_dtype="float16").check("bnb-nf4", stored=True)
    QuantizationOptions(int8_threshold=6.0).check("bnb-int8", stored=True)
