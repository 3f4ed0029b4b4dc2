"""What images install: what the tests ran with, all of it, by hash, and of each service only its own."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tests.images.requirements import FILES, entries, pins

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = {"gateway": "gateway", "tokenizer": "tokenizer", "worker-cpu": "worker", "worker-cuda": "worker"}
ABSENT = {
    "gateway": {"torch", "transformers", "numpy", "jinja2"},
    "tokenizer": {"torch", "accelerate", "bitsandbytes", "starlette", "pyjwt"},
    "worker-cpu": {"triton", "starlette", "pyjwt"},
    "worker-cuda": {"starlette", "pyjwt"},
}


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_one_version_with_hashes_and_nothing_else(name):
    for entry in entries(name):
        pin, *hashes = entry.split()
        assert pin.count("==") == 1
        assert ";" not in pin
        assert hashes
        assert all(each.startswith("--hash=sha256:") and len(each) == 78 for each in hashes)


@pytest.mark.parametrize("name", EXTRAS)
def test_pins_are_those_of_the_tests(name):
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    tested = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line}
    different = {
        package: (version, tested[package])
        for package, version in pins(name).items()
        if package in tested and version.partition("+")[0] != tested[package]
    }
    assert different == {}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_service_has_all_that_it_asks_for(name):
    optional = PROJECT["optional-dependencies"]
    asked = [Requirement(text) for text in (*PROJECT["dependencies"], *optional[EXTRAS[name]], *optional["otel"])]
    pinned = pins(name)
    assert [each.name for each in asked if canonicalize_name(each.name) not in pinned] == []
    assert [each.name for each in asked if not each.specifier.contains(pinned[canonicalize_name(each.name)])] == []


@pytest.mark.parametrize("name", EXTRAS)
def test_a_service_has_nothing_of_the_others(name):
    assert not ABSENT[name] & pins(name).keys()


def test_the_variants_of_the_worker_differ_in_torch_alone():
    cpu, cuda = pins("worker-cpu"), pins("worker-cuda")
    assert cpu["torch"] == cuda["torch"] + "+cpu"
    others = {package for package in cpu.keys() ^ cuda.keys() if not package.startswith(("nvidia-", "cuda-"))}
    assert others == {"triton"}
    assert {package for package in cpu.keys() & cuda.keys() if cpu[package] != cuda[package]} == {"torch"}
