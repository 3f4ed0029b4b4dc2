"""How a call failed."""

from __future__ import annotations

from typing import Any

import grpc


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """What `call`, unary or a stream, ends with."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")
