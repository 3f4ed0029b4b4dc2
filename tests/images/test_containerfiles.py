"""Containerfiles say what the code does: its modules, its ports, its options."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from gateway.settings import GatewaySettings
from model_worker.settings import WorkerSettings
from rpc.settings import PREFIX, ServiceSettings, load_settings
from tests.conftest import REPOSITORY
from tests.images.containerfile import FOLDER, all_of, environment, instructions
from tokenizer_service.settings import TokenizerSettings

# Image → module, settings, and what they cannot do without.
SERVICES: dict[str, tuple[str, type[ServiceSettings], list[str]]] = {
    "gateway": ("gateway", GatewaySettings, ["--tokenizer=t:1", "--worker=w:1"]),
    "tokenizer": ("tokenizer_service", TokenizerSettings, ["--model=/models/m"]),
    "worker": ("model_worker", WorkerSettings, ["--model=/models/m"]),
}
METRICS = {"gateway": 9091, "tokenizer": 9092, "worker": 9093}  # docs/metrics.md
ALSO = {"gateway": ["8080"], "tokenizer": [], "worker": []}  # the HTTP port, as everywhere in README.md
SHARED = {"protos", "rpc", "cli", "clients/python"}


def settings_of(image: str) -> ServiceSettings:
    module, settings, needed = SERVICES[image]
    return load_settings(settings, module, needed, environment(image))


def copied(image: str) -> set[str]:
    """What of the repository goes into the build."""
    return {
        source.rstrip("/") for each in all_of(image, "COPY") if each.stage == 1 for source in each.rest.split()[:-1]
    }


@pytest.mark.parametrize("image", SERVICES)
def test_an_image_starts_its_service_as_nobody(image):
    [entry] = all_of(image, "ENTRYPOINT")
    assert json.loads(entry.rest) == ["python", "-m", SERVICES[image][0]]
    assert [each.rest for each in all_of(image, "USER")] == ["10001:10001"]
    assert all_of(image, "USER")[0].stage == entry.stage == 2
    assert not [each for each in instructions(image) if each.name in {"HEALTHCHECK", "CMD", "VOLUME", "STOPSIGNAL"}]


@pytest.mark.parametrize("image", SERVICES)
def test_an_image_has_the_code_of_its_service_alone(image):
    folders = {source for source in copied(image) if (REPOSITORY / source).is_dir()}
    assert folders == SHARED | {SERVICES[image][0]}
    assert "--no-index" in "".join(each.rest for each in all_of(image, "RUN"))


@pytest.mark.parametrize("image", SERVICES)
def test_every_base_is_an_argument_by_a_name_without_a_host(image):
    [first, *_] = instructions(image)
    assert (first.stage, first.name) == (0, "ARG")
    name, _, default = first.rest.partition("=")
    assert name == "BASE_IMAGE"
    assert "/" not in default
    assert default.startswith("python:3.11-slim")
    assert [each.rest.split()[0] for each in all_of(image, "FROM")] == ["${BASE_IMAGE}"] * 2


@pytest.mark.parametrize("image", SERVICES)
def test_ports_are_those_that_the_settings_have(image):
    [exposed] = all_of(image, "EXPOSE")
    assert exposed.rest.split() == [str(settings_of(image).port), *ALSO[image], str(METRICS[image])]


@pytest.mark.parametrize("image", SERVICES)
def test_variables_of_an_image_are_options_of_its_service(image):
    options = {PREFIX + name.upper() for name in SERVICES[image][1].__dataclass_fields__}
    assert {name for name in environment(image) if name.startswith(PREFIX)} <= options
    assert settings_of(image).host == "0.0.0.0"


def test_what_a_worker_compiles_is_in_a_folder_of_its_own_below_the_volume():
    settings = settings_of("worker")
    assert isinstance(settings, WorkerSettings)
    assert str(settings.compile_cache.parent) == "/var/cache/tokenmill"
    assert "install -d -m 0700 -o 10001 -g 10001 /var/cache/tokenmill" in "".join(
        each.rest for each in all_of("worker", "RUN")
    )


@pytest.mark.parametrize("image", SERVICES)
def test_only_a_worker_installs_packages_of_the_system(image):
    installs = [each.rest for each in all_of(image, "RUN") if re.search(r"\b(apt|apt-get|apk|dnf|yum)\b", each.rest)]
    assert len(installs) == (image == "worker")


@pytest.mark.parametrize("image", SERVICES)
def test_everything_from_outside_is_pinned_and_hashed(image):
    commands = " ".join(each.rest for each in all_of(image, "RUN"))
    installs = re.findall(r"pip --python \S+ install(.*?)&&", commands)
    assert len(installs) == 3
    for install in installs:
        assert "--no-deps" in install
        assert "--require-hashes --requirement" in install or "--no-index" in install


def test_a_build_sees_what_it_copies_and_little_else():
    kept = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = {source for image in SERVICES for source in copied(image)}
    assert {source.partition("/")[0] for source in sources} == {name.partition("/")[0] for name in kept}
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {name.rstrip("*") for name in packages["include"]} - {"tokenmill", "tokenmill_client"} <= sources


def test_no_file_names_a_host_but_this_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()] + list((REPOSITORY / "deploy").glob("compose*.yaml"))
    assert not [path for path in files if re.search(r"://(?!127\.0\.0\.1\b)", path.read_text(encoding="utf-8"))]
