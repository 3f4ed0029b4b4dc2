"""What is in the images, and that they run as a cluster runs them: `make test-images`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY
from tests.images.containers import bound, container
from tests.images.requirements import pins
from tests.images.stack import SERVICES, everything, writable_by_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images.built import Image
    from tests.images.seen import Seen

MOST_BYTES = 300_000_000  # on top of the base, of an image without torch
COMPILERS = re.compile(r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|cc1|cc1plus|tcc|rustc|go|ld|as|make)(-[\d.]+)?")
ABSENT = {
    "gateway": {"torch", "transformers", "numpy", "jinja2", "tokenizer_service", "model_worker", "pip", "setuptools"},
    "tokenizer": {"torch", "gateway", "model_worker", "starlette", "jwt", "pip", "setuptools"},
    "worker": {"gateway", "tokenizer_service", "starlette", "jwt", "pip"},
}
PACKAGES = """
import importlib.metadata, importlib.util, json, os, pathlib, sys
folder = pathlib.Path(importlib.util.find_spec("rpc").origin).parent.parent
print(json.dumps({
    "modules": sorted(name for name in sys.argv[1:] if importlib.util.find_spec(name)),
    "pins": {each.name: each.version for each in importlib.metadata.distributions(path=[str(folder)])},
    "uncompiled": sorted(str(path) for path in (folder / "rpc").rglob("*.py")
                         if not pathlib.Path(importlib.util.cache_from_source(str(path))).exists()),
}), file=sys.stderr)
"""
WRITES = """
import errno, json, os, pathlib
def outcome(folder):
    try:
        (pathlib.Path(folder) / "written").write_text("x")
    except OSError as error:
        return errno.errorcode[error.errno]
    return "written"
status = dict(line.split(":\\t", 1) for line in open("/proc/1/status").read().splitlines())
print(json.dumps({
    "who": [os.getuid(), os.getgid(), os.getgroups()],
    "status": {name: status[name].split()[0] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")},
    "writes": {folder: outcome(folder) for folder in ("/", "/opt/tokenmill", "/etc", "/var/cache", "/models", "/tmp")},
}))
"""


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_says_what_it_is_and_nothing_of_where_it_was_built(built: dict[str, Image], seen: Seen, service: str):
    image = built[service]
    config = image.config
    seen.note("user", service, config["User"])
    assert config["User"] == "10001:10001"
    assert "Healthcheck" not in config
    assert config["Labels"]["org.opencontainers.image.title"] == f"tokenmill-{service}"
    assert config.get("StopSignal") is None
    base = {pair.partition("=")[0] for pair in built["base"].config.get("Env", [])}
    ours = {pair.partition("=")[0] for pair in config["Env"]} - base
    assert not {name for name in ours if re.search("PIP_|PROXY|SSL|CERT|URL|SECRET", name, re.IGNORECASE)}
    assert not [line for line in image.history if re.search("://|pip.conf|/wheels", line)]
    for path in ("etc/pip.conf", "run/secrets/ca.pem", "var/cache/pip", "source", "opt/build", "wheel"):
        assert not (image.root / path).exists()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_without_torch_is_small(built: dict[str, Image], seen: Seen, service: str):
    on_top = built[service].size_bytes - built["base"].size_bytes
    seen.note("MB on top of the base", service, round(on_top / 1e6))
    assert service == "worker" or on_top < MOST_BYTES


@pytest.mark.parametrize("service", SERVICES)
def test_only_the_worker_has_a_compiler(built: dict[str, Image], seen: Seen, service: str):
    found = {name for name in built[service].programs() if COMPILERS.fullmatch(name)}
    seen.note("compilers", service, "yes" if found else "none")
    assert ("g++" in found) if service == "worker" else not found


@pytest.mark.parametrize("service", SERVICES)
async def test_what_is_installed_is_what_is_pinned(built: dict[str, Image], seen: Seen, service: str, tmp_path: Path):
    code = ("-c", PACKAGES, *sorted(ABSENT[service]))
    async with container(built[service], tmp_path, *code, entrypoint=("python",)) as running:
        assert await running.exit_code() == 0, running.lines
        found = json.loads(running.lines[0])
    file = f"worker-{built[service].name.rpartition('-')[2]}" if service == "worker" else service
    installed = {re.sub("[-_.]+", "-", name).lower(): version for name, version in found["pins"].items()}
    seen.note("packages", service, len(installed))
    assert installed.pop("tokenmill")
    assert installed == pins(file)
    assert found["modules"] == []
    assert found["uncompiled"] == []


async def test_three_containers_answer_a_chat_and_end_with_0(
    built: dict[str, Image], seen: Seen, tmp_path: Path, demo_model: Path
):
    async with everything(built, tmp_path, demo_model) as stack:
        for name, running in stack.items():
            code, answer = await running.run("python", "-c", WRITES)
            assert code == 0, answer
            found = json.loads(answer)
            seen.note("user, capabilities, writes to /", name, f"{found['who'][0]}, 0, {found['writes']['/']}")
            assert found["who"] == [10001, 10001, []]
            assert found["status"] == {
                "Uid": "10001", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"
            }  # fmt: skip
            assert found["writes"] == {
                **dict.fromkeys(("/", "/opt/tokenmill", "/etc", "/var/cache"), "EROFS"),
                "/models": "ENOENT" if name == "gateway" else "EROFS",
                "/tmp": "written",
            }
            code, answer = await running.run("tokenmill", "health", f"127.0.0.1:{SERVICES[name]}")
            seen.note("tokenmill health", name, answer.strip().rpartition(" ")[2])
            assert (code, answer.strip()) == (0, f"127.0.0.1:{SERVICES[name]}: SERVING")

        asked = (str(REPOSITORY / ".venv/bin/tokenmill"), "chat", "--gateway", "127.0.0.1:50051", "--temperature", "0")
        code, answer = await stack["gateway"].from_next_door(*asked, said="What is the capital of France?\n")
        seen.note("answered a chat", "gateway", answer.strip().splitlines()[0][:40])
        assert code == 0, answer
        assert "Paris" in answer
        assert not [line for line in stack["worker"].lines if "compiler" in line]
        for name in ("gateway", "worker", "tokenizer"):
            stack[name].terminate()
            ended = await stack[name].exit_code()
            seen.note("exit code after SIGTERM", name, ended)
            assert ended == 0, stack[name].lines
        assert list((tmp_path / "cache" / "compiled").glob("tokenmill-*.so"))


async def test_layers_compile_in_a_worker_whose_root_cannot_be_written(
    built: dict[str, Image], seen: Seen, tmp_path: Path, demo_model: Path
):
    cache = writable_by_all(tmp_path / "cache")
    mounts = [bound(demo_model.parent, "/models"), bound(cache, "/var/cache/tokenmill", writable=True)]
    flags = ("--model", f"/models/{demo_model.name}", "--log-format", "json", "--compile", "--threads", "1")
    async with container(built["worker"], tmp_path, *flags, mounts=mounts) as worker:
        await worker.logged("ready")
        said = [line for line in worker.lines if "compile" in line]
        seen.note("--compile", "worker", "compiled" if not [line for line in said if "eager" in line] else "eager")
        assert not [line for line in said if "eager" in line or "warning" in line], said
        assert [line for line in said if "compiled layers are called directly" in line], said
        worker.terminate()
        assert await worker.exit_code() == 0
    assert list((cache / "compiled").rglob("*.cpp"))


async def test_a_worker_without_a_volume_serves_without_what_it_would_have_compiled(
    built: dict[str, Image], tmp_path: Path, demo_model: Path
):
    flags = ("--model", f"/models/{demo_model.name}", "--log-format", "json", "--threads", "1", "--drain-seconds", "0")
    async with container(built["worker"], tmp_path, *flags, mounts=[bound(demo_model.parent, "/models")]) as worker:
        await worker.logged("ready")
        assert [line for line in worker.lines if "/var/cache/tokenmill/compiled: Read-only file system" in line]
        worker.terminate()
        assert await worker.exit_code() == 0


@pytest.mark.parametrize("service", SERVICES)
async def test_a_container_that_is_told_nothing_says_what_it_lacks(
    built: dict[str, Image], tmp_path: Path, service: str
):
    async with container(built[service], tmp_path) as running:
        assert await running.exit_code() == 2
        assert len(running.lines) == 1
        assert "is required" in running.lines[0]
