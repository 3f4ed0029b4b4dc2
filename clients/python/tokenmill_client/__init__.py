"""A client of Tokenmill for Python, synchronous and asynchronous.

Calls block, or are awaited, until all outputs have ended; streams are iterators that can be cancelled at any time.
"""

from tokenmill_client.async_client import AsyncClient, AsyncStream
from tokenmill_client.client import Client, Stream
from tokenmill_client.errors import (
    CancelledError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    TokenmillError,
    UnavailableError,
)
from tokenmill_client.parameters import Message, Parameters
from tokenmill_client.results import Answer, Delta, Finish, Model, Output, TokenLogprob, Usage
from tokenmill_client.retries import Retries

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "CancelledError",
    "Client",
    "DeadlineExceededError",
    "Delta",
    "Finish",
    "InternalError",
    "InvalidRequestError",
    "Message",
    "Model",
    "NotFoundError",
    "Output",
    "OverloadedError",
    "Parameters",
    "RefusedError",
    "Retries",
    "Stream",
    "TokenLogprob",
    "TokenmillError",
    "UnavailableError",
    "Usage",
]
