"""`tokenmill doctor`: what would keep this machine from serving a model, in plain words."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from cli.demo_model import default_folder
from cli.health import PORTS, SECONDS, state_of

HTTP_PORT = 8080
MIB = 2**20
# What a worker needs beside the weights: its libraries, K/V, the engine's tables.
WORKER_BYTES = 700 * MIB
PACKAGES = {
    "gateway": ("grpc", "tokenizers", "dns", "starlette", "uvicorn"),
    "tokenizer": ("grpc", "tokenizers", "transformers", "jinja2"),
    "worker": ("grpc", "torch", "transformers", "safetensors", "numpy"),
}
Level = Literal["ok", "note", "problem"]
MARKS: dict[Level, str] = {"ok": "✓", "note": "·", "problem": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    message: str
    hint: str = ""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor", help="look for what is wrong", description="Look for what would keep this machine from serving."
    )
    parser.add_argument("--model", type=Path, default=default_folder(), help="model folder (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what was found; 1 if there is a problem."""
    findings = list(look(options.model))
    for finding in findings:
        print(f"{MARKS[finding.level]} {finding.message}")
        if finding.hint:
            print(f"    {finding.hint}")
    return int(any(finding.level == "problem" for finding in findings))


def look(model: Path) -> Iterator[Finding]:
    """Everything there is to look at."""
    yield from packages(lambda name: importlib.util.find_spec(name) is not None)
    yield from ports({**PORTS, "HTTP": HTTP_PORT})
    weights = yield from model_folder(model)
    yield from memory(weights, available_bytes())
    yield from processor(torch_version(), has_gpu=Path("/dev/nvidia0").exists(), has_compiler=bool(shutil.which("g++")))


def packages(is_there: Callable[[str], bool]) -> Iterator[Finding]:
    """Whether each service finds what it imports."""
    for service, names in PACKAGES.items():
        missing = [name for name in names if not is_there(name)]
        if missing:
            hint = f"pip install 'tokenmill[{service}]'"
            yield Finding("problem", f"the {service} needs packages that are missing: {', '.join(missing)}", hint)
        else:
            yield Finding("ok", f"the {service}'s packages are installed")


def ports(wanted: dict[str, int]) -> Iterator[Finding]:
    """Whether each port is free, or one of ours is there already."""
    for service, port in wanted.items():
        if is_free(port):
            yield Finding("ok", f"port {port} ({service}) is free")
        elif service in PORTS and (state := state_of(f"127.0.0.1:{port}", "liveness", SECONDS)) != "no answer":
            yield Finding(
                "note", f"port {port}: a service answers there already ({state})", "`tokenmill up` would collide"
            )
        else:
            hint = f"find it with `ss -ltnp 'sport = :{port}'`, or use other ports"
            yield Finding("problem", f"port {port} ({service}) is in use by something else", hint)


def is_free(port: int) -> bool:
    """Whether one could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def model_folder(folder: Path) -> Generator[Finding, None, int]:
    """Whether a model can be loaded from there; returns the bytes of its weights."""
    if not folder.is_dir():
        yield Finding("problem", f"there is no model folder {folder}", "`make model` makes the demo's, or give --model")
        return 0
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    weights = sorted(folder.glob("*.safetensors"))
    expected = _shards(folder)
    missing += sorted(expected - {path.name for path in weights})
    if not weights and not expected:
        missing.append("model.safetensors")
    for name in missing:
        yield Finding("problem", f"the model folder {folder} is incomplete: {name} is missing", "copy it again, whole")
    for name in ("config.json", "tokenizer.json"):
        if name not in missing and not _is_json(folder / name):
            yield Finding("problem", f"{folder / name} is not JSON", "the copy broke off: copy it again")
    size = sum(path.stat().st_size for path in weights)
    if not missing:
        yield Finding("ok", f"the model folder {folder} is complete ({size // MIB} MiB of weights)")
        if not _has_template(folder):
            yield Finding("note", "the model has no chat template", "it continues prompts, but answers no chats")
    return size


def memory(weight_bytes: int, available: int) -> Iterator[Finding]:
    """Whether the weights fit, as they are."""
    wanted = weight_bytes + WORKER_BYTES
    if wanted > available:
        hint = "--quantization int8 or bnb-nf4 takes less; so does a smaller model"
        message = f"the model may need {wanted // MIB} MiB of memory, {available // MIB} MiB are free"
        yield Finding("problem", message, hint)
    else:
        yield Finding("ok", f"there is memory: {available // MIB} MiB free")


def available_bytes() -> int:
    """Free memory, of the machine or of the container, whichever is less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, int(text) - int(used.read_text(encoding="ascii")))
    return free


def processor(torch: str | None, *, has_gpu: bool, has_compiler: bool) -> Iterator[Finding]:
    """What will compute."""
    if has_gpu and torch is not None and torch.endswith("+cpu"):
        yield Finding("problem", "there is a GPU, but torch is built for CPUs", "install torch with CUDA")
    elif has_gpu:
        yield Finding("ok", "there is a GPU")
    else:
        yield Finding(
            "note", "there is no GPU: models are computed on the CPU", "fit for small models, quantized to int8"
        )
    if not has_gpu and not has_compiler:
        yield Finding("note", "there is no C++ compiler", "with g++, int8 on the CPU is several times as fast")


def torch_version() -> str | None:
    """Of the torch that is installed."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _shards(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not _is_json(index):
        return set()
    return set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return _is_json(config) and "chat_template" in json.loads(config.read_text(encoding="utf-8"))
