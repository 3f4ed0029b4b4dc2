"""The three images as one stack on the demo model, each in a container of its own, in one network."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from tests.images.containers import Container, bound, container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.images.built import Image

SERVICES = {"gateway": 50051, "tokenizer": 50052, "worker": 50053}  # and where they listen, unless told otherwise
ALL = ("--log-format", "json", "--drain-seconds", "0")


@asynccontextmanager
async def everything(built: Mapping[str, Image], folder: Path, demo_model: Path) -> AsyncIterator[dict[str, Container]]:
    """All three, ready, by service. What the worker compiles is in `folder`/cache."""
    models = bound(demo_model.parent, "/models")
    cache = bound(writable_by_all(folder / "cache"), "/var/cache/tokenmill", writable=True)
    async with AsyncExitStack() as stack:
        model = ("--model", f"/models/{demo_model.name}")
        tokenizer = await stack.enter_async_context(
            container(built["tokenizer"], folder, *ALL, *model, "--threads", "1", mounts=[models])
        )
        await tokenizer.logged("ready")
        worker = await stack.enter_async_context(
            container(
                built["worker"],
                folder,
                *ALL,
                *model,
                "--threads",
                "1",
                "--kv-cache-memory",
                "256MiB",
                mounts=[models, cache],
                network=tokenizer.network(),
            )
        )
        await worker.logged("ready")
        others = ("--tokenizer", "127.0.0.1:50052", "--worker", "127.0.0.1:50053")
        gateway = await stack.enter_async_context(
            container(built["gateway"], folder, *ALL, *others, network=tokenizer.network())
        )
        await gateway.logged("ready")
        yield {"gateway": gateway, "tokenizer": tokenizer, "worker": worker}


def writable_by_all(folder: Path) -> Path:
    """A new folder as a volume often is (emptyDir), whose subfolders may still be somebody's own."""
    folder.mkdir()
    folder.chmod(0o777)
    return folder
