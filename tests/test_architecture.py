"""The import rules of the architecture, executed: by reading the sources, and by importing in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.import_rules import OnlyIn, violations

ROOT = Path(__file__).resolve().parent.parent

# Import name → folder.
PACKAGES = {
    "tokenmill": "protos/tokenmill",
    "rpc": "rpc",
    "gateway": "gateway",
    "tokenizer_service": "tokenizer_service",
    "model_worker": "model_worker",
    "cli": "cli",
    "tokenmill_client": "clients/python/tokenmill_client",
}

GRPC = {"grpc", "google", "grpc_health", "grpc_reflection"}

# Besides itself and the standard library. Services never import one another.
# tests/, benchmarks/ and deploy/ are not in the tables: they may import everything, and nothing imports them.
MAY_IMPORT = {
    "tokenmill": {"grpc", "google"},
    "rpc": GRPC | {"tokenmill", "uvloop", "prometheus_client", "uvicorn", "h11", "opentelemetry"},
    "gateway": GRPC
    | {"tokenmill", "rpc", "tokenizers", "dns", "pydantic", "pydantic_core", "starlette", "jwt"}
    | {"prometheus_client"},
    "tokenizer_service": GRPC | {"prometheus_client"} | {"tokenmill", "rpc", "tokenizers", "transformers", "jinja2"},
    "model_worker": GRPC
    | {"prometheus_client"}
    | {"tokenmill", "rpc", "torch", "transformers", "accelerate", "bitsandbytes", "safetensors", "numpy"},
    "cli": GRPC | {"tokenmill", "tokenmill_client", "torch", "transformers", "safetensors", "gguf"},
    "tokenmill_client": {"grpc", "google", "tokenmill"},
}

WIRE = GRPC | {"tokenmill"}
TENSORS = {"torch", "transformers", "accelerate", "bitsandbytes", "numpy"}

ONLY_IN = [
    # gRPC and protobuf stop at the border: the servicer, what it translates messages with, and the clients.
    OnlyIn(
        "gateway",
        WIRE,
        {
            "server",
            "servicer",
            "requests",
            "responses",
            "model_description",
            "row_messages",
            "fleet.worker_client",
            "fleet.worker_session",
            "fleet.worker_call",
            "fleet.tokenizer_instance",
            "fleet.watching",
            "tokenizer_client",
            "http.errors",
            "http.openai.parameters",
            "http.openai.chat",
            "http.openai.completions",
            "http.openai.responses_body",
        },
    ),
    OnlyIn("gateway", {"pydantic", "pydantic_core", "starlette"}, {"http"}),
    OnlyIn("gateway", {"jwt"}, {"access"}),
    OnlyIn("rpc", {"opentelemetry"}, {"tracing.otel"}),
    OnlyIn("tokenizer_service", WIRE, {"server", "servicer", "messages", "json_values", "encode_response"}),
    OnlyIn("model_worker", WIRE, {"server", "servicer", "messages", "row_requests", "rows_of_call", "many_calls"}),
    # The policy of the worker is torch-free: scheduler, sequences, loop, streams and servicer are not in this list.
    OnlyIn("model_worker", TENSORS, {"torch_engine"}),
    OnlyIn("tokenizer_service", {"transformers"}, {"loaded_tokenizer"}),
    OnlyIn("cli", TENSORS | {"safetensors", "gguf"}, {"dequantize"}),
]

# Importing these must leave those out of `sys.modules`.
WORKER_POLICY = [
    "model_worker.engine",
    "model_worker.engines.scripted_engine",
    "model_worker.batching.generation_loop",
    "model_worker.batching.scheduler",
    "model_worker.sequence",
    "model_worker.servicer",
    "model_worker.batching.token_stream",
]


def modules_of(package: str, *left_out: str) -> list[str]:
    files = sorted((ROOT / PACKAGES[package]).glob("*.py"))
    return [f"{package}.{file.stem}" for file in files if file.stem not in {"__init__", *left_out}]


ABSENT = {
    "gateway": (["gateway.__main__"], {"torch", "transformers", "numpy", "jinja2", "opentelemetry"}),
    "tokenizer_service": (["tokenizer_service.__main__"], {"torch"}),
    "the worker's policy": (WORKER_POLICY, {"torch", "transformers", "numpy"}),
    "rpc": (modules_of("rpc"), {"torch", "transformers", "tokenizers", "opentelemetry"}),
    "cli": (modules_of("cli", "dequantize", "__main__"), {"torch", "transformers"}),
}


def test_every_import_is_allowed():
    assert violations(ROOT, PACKAGES, MAY_IMPORT, ONLY_IN) == []


def test_the_tables_name_modules_that_exist():
    missing = [
        f"{rule.package}.{module}"
        for rule in ONLY_IN
        for module in rule.modules
        for path in [ROOT / PACKAGES[rule.package] / module.replace(".", "/")]
        if not path.is_dir() and not path.with_suffix(".py").is_file()
    ]
    assert missing == []


FORBIDDEN = {
    "a service imports another": ("gateway/pipeline.py", "from model_worker.sequence import Sequence"),
    "the gateway imports torch": ("gateway/pipeline.py", "import torch"),
    "… in a function": ("gateway/pipeline.py", "def late():\n    import torch.nn as nn"),
    "… for a type": ("gateway/pipeline.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    "the gateway imports transformers": ("gateway/servicer.py", "from transformers import AutoTokenizer"),
    "the tokenizer service imports torch": ("tokenizer_service/loaded_tokenizer.py", "import torch"),
    "rpc imports a service": ("rpc/lifecycle.py", "from gateway.settings import GatewaySettings"),
    "the contract imports rpc": ("protos/tokenmill/v1/extra.py", "import rpc.errors"),
    "gRPC in the gateway's domain": ("gateway/pipeline.py", "import grpc"),
    "messages in the tokenizer's domain": ("tokenizer_service/encoder.py", "from tokenmill.v1 import tokenizer_pb2"),
    "protobuf in the worker's policy": ("model_worker/batching/scheduler.py", "import google.protobuf.message"),
    "torch in the worker's policy": ("model_worker/batching/scheduler.py", "import torch"),
    "torch in the worker's servicer": ("model_worker/servicer.py", "from torch import Tensor"),
    "a library that the image does not have": ("gateway/pipeline.py", "import requests"),
    "a client imports a service's inside": ("clients/python/tokenmill_client/client.py", "import rpc.status"),
}


@pytest.mark.parametrize(("file", "source"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_is_found(tmp_path, file, source):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert len(violations(tmp_path, PACKAGES, MAY_IMPORT, ONLY_IN)) >= 1


ALLOWED = {
    "the standard library": ("gateway/pipeline.py", "import asyncio, os.path\nfrom collections import deque"),
    "itself": (
        "gateway/pipeline.py",
        "from gateway.mailbox import Mailbox\nfrom . import admission\nfrom .row import Row",
    ),
    "rpc": ("gateway/pipeline.py", "from rpc.errors import queue_full"),
    "gRPC at the border": ("gateway/servicer.py", "import grpc\nfrom tokenmill.v1 import gateway_pb2"),
    "torch in the engine": ("model_worker/torch_engine/transformers_engine.py", "import torch"),
}


@pytest.mark.parametrize(("file", "source"), ALLOWED.values(), ids=ALLOWED)
def test_an_allowed_import_is_not_found(tmp_path, file, source):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert violations(tmp_path, PACKAGES, MAY_IMPORT, ONLY_IN) == []


@pytest.mark.parametrize(("modules", "absent"), ABSENT.values(), ids=ABSENT)
def test_a_fresh_interpreter_does_without(modules, absent):
    code = f"import sys, {', '.join(modules)}; print(*sorted({absent!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_an_installed_package_has_every_file_that_it_reads():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    folders = [ROOT / folder for name, folder in PACKAGES.items() if name != "tokenmill_client"]
    files = [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    missing = [path for path in files if path.suffix != ".py" and not any(path.match(pattern) for pattern in packaged)]
    assert not missing
