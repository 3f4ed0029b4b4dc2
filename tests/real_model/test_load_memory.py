"""What a loaded model takes, and that nothing of the floating-point copy stays: neither memory nor a mapped file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.model
MIB = 2**20
SLACK = 48 * MIB  # the K/V of the self-test, torch's and bitsandbytes' own, what the allocator keeps in pieces


def taken(model, scheme):
    program = [sys.executable, "-m", "tests.real_model.loaded_memory", str(model), scheme]
    environment = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'protos'}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(program, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(ran.stdout.splitlines()[-1])
    print(f"\n{scheme}: " + ", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in measured.items() if size > MIB))
    return measured


@pytest.fixture(scope="module")
def exact_weights(demo_model):
    return taken(demo_model, "none")["weights"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("scheme", "share"), [("int8", 0.47), ("bnb-int8", 0.47), ("bnb-nf4", 0.35)])
def test_of_a_quantized_model_only_the_quantized_weights_stay(demo_model, exact_weights, scheme, share):
    measured = taken(demo_model, scheme)
    assert measured["weights"] <= share * exact_weights
    assert measured["mapped_files"] == 0
    assert measured["grown"] <= measured["weights"] + SLACK


@pytest.mark.timeout(300)
def test_not_even_while_it_loads_and_tests_itself_int8_takes_as_much_as_float32(demo_model, exact_weights):
    assert taken(demo_model, "int8")["peak"] < exact_weights
