"""The clients in other languages, and buf, as programs to be run."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "clients"
# HOST:PORT [QUESTION], over gRPC
CLIENTS = {"node": ("node", str(FOLDER / "node" / "chat.mjs")), "cpp": (str(FOLDER / "cpp" / "build" / "chat"),)}
HTTP_CLIENTS = {
    "ai-sdk": ("node", str(FOLDER / "ai-sdk" / "chat.mjs")),  # URL MODEL [QUESTION]
    "curl": (str(FOLDER / "curl" / "chat.sh"),),  # URL [QUESTION]
}
BUF_CURL = (str(Path(sys.executable).parent / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge")
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    code: int
    out: str
    err: str


async def run(*command: str) -> Ended:
    """Run a program to its end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def json_documents(text: str) -> list[Any]:
    """The JSON documents that `text` holds, one after another."""
    decoder, documents, at = json.JSONDecoder(), [], 0
    while at < len(text):
        document, end = decoder.raw_decode(text, at)
        documents.append(document)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return documents
