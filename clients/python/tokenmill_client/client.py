"""The synchronous client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc
from tokenmill_client.connection import OPTIONS, Identity
from tokenmill_client.errors import from_rpc_error
from tokenmill_client.parameters import Messages, Parameters, Prompts, chat_request, generate_request
from tokenmill_client.results import Answer, Delta, Model, answer_of, delta_of, model_of
from tokenmill_client.retries import Attempts, Retries


class Stream(Iterator[Delta]):
    """The deltas of a call as they come. `cancel`, or leaving its context, ends the generation at once."""

    def __init__(self, begin: Callable[[float | None], Any], attempts: Attempts) -> None:
        self._begin = begin
        self._attempts = attempts
        self._call: Any = None
        self._has_begun = False
        self._cancelled = threading.Event()

    def __next__(self) -> Delta:
        """The next delta. Errors: TokenmillError."""
        while True:
            if self._cancelled.is_set():
                raise StopIteration
            if self._call is None:
                self._call = self._begin(self._attempts.timeout())
                if self._cancelled.is_set():  # by another thread, which has not seen the call
                    self._call.cancel()
            try:
                response = next(self._call)
            except grpc.RpcError as error:
                if self._cancelled.is_set():
                    raise StopIteration from None
                self._fail(error)
                continue
            self._has_begun = True
            delta = delta_of(response)
            if delta is not None:
                return delta

    def text(self) -> Iterator[str]:
        """The text of the first output alone, as it comes. Errors: TokenmillError, its own failure too."""
        for delta in self:
            if delta.index == 0:
                if delta.error is not None:
                    raise delta.error
                if delta.text:
                    yield delta.text

    def cancel(self) -> None:
        """End it. Another thread than the reader's may do so."""
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        """A context: after it the call has ended."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.cancel()

    def _fail(self, error: grpc.RpcError) -> None:
        failure = from_rpc_error(error)
        if self._has_begun:
            raise failure from None
        time.sleep(self._attempts.wait_after(failure))
        self._call = None


class Client:
    """Asks one gateway, over one connection; may be used by several threads. A context: after it, it is closed.

    >>> with Client("localhost:50051") as client:
    ...     print(client.chat("What is the capital of France?", max_new_tokens=30).text)
    """

    def __init__(  # noqa: PLR0913 - by name, and each has a default
        self,
        target: str,
        *,
        timeout_seconds: float | None = None,
        retries: Retries = Retries(),  # noqa: B008 - it cannot be changed
        tenant: str | None = None,
        metadata: Mapping[str, str] | None = None,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel_options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """`target`: host:port. `timeout_seconds`: of a call, all of its attempts together; none: the gateway's own.

        `api_key`: a key or a token (JWT); not given: TOKENMILL_API_KEY. `credentials`: for TLS, without which a key can
        be read on its way.
        """
        own_options = [*OPTIONS, *channel_options]
        if credentials is None:
            self._channel = grpc.insecure_channel(target, own_options)
        else:
            self._channel = grpc.secure_channel(target, credentials, own_options)
        self._stub = gateway_pb2_grpc.InferenceServiceStub(self._channel)
        self._identity = Identity(tenant, metadata, api_key)
        self._timeout_seconds = timeout_seconds
        self._retries = retries

    def chat(self, messages: Messages, **parameters: Unpack[Parameters]) -> Answer:
        """Answer a chat. Errors: TokenmillError."""
        return answer_of(self._ask(self._stub.Chat, chat_request(messages, parameters)))

    def generate(self, prompts: Prompts, **parameters: Unpack[Parameters]) -> Answer:
        """Continue prompts. Errors: TokenmillError."""
        return answer_of(self._ask(self._stub.Generate, generate_request(prompts, parameters)))

    def stream_chat(self, messages: Messages, **parameters: Unpack[Parameters]) -> Stream:
        """Answer a chat, as it is generated.

        >>> with Client("localhost:50051") as client:
        ...     with client.stream_chat("Count to ten.") as stream:
        ...         for text in stream.text():
        ...             print(text, end="", flush=True)
        """
        return self._stream(self._stub.StreamChat, chat_request(messages, parameters))

    def stream_generate(self, prompts: Prompts, **parameters: Unpack[Parameters]) -> Stream:
        """Continue prompts, as it is generated."""
        return self._stream(self._stub.StreamGenerate, generate_request(prompts, parameters))

    def count_tokens(self, messages: Messages | None = None, *, prompt: str | None = None, model: str = "") -> int:
        """The tokens of a chat, or of a `prompt`, as a request with it would have them. Errors: TokenmillError."""
        request = gateway_pb2.CountTokensRequest()
        if prompt is not None:
            request.generate.CopyFrom(generate_request(prompt, {"model": model}))
        else:
            request.chat.CopyFrom(chat_request(messages or [], {"model": model}))
        return int(self._ask(self._stub.CountTokens, request).total_tokens)

    def models(self) -> list[Model]:
        """What is served. Errors: TokenmillError."""
        response = self._ask(self._stub.ListModels, gateway_pb2.ListModelsRequest())
        return [model_of(model) for model in response.models]

    def close(self) -> None:
        """Close the connection; calls that run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Connects when it is first asked."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def _ask(self, method: Any, request: Any) -> Any:
        attempts, metadata = Attempts(self._retries, self._timeout_seconds), self._identity.of_call(None)
        while True:
            try:
                return method(request, timeout=attempts.timeout(), metadata=metadata)
            except grpc.RpcError as error:
                time.sleep(attempts.wait_after(from_rpc_error(error)))

    def _stream(self, method: Any, request: Any) -> Stream:
        metadata = self._identity.of_call(None)
        attempts = Attempts(self._retries, self._timeout_seconds)
        return Stream(lambda timeout: method(request, timeout=timeout, metadata=metadata), attempts)
