"""The contract's chat messages as the domain's, and the domain's errors as the contract's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grpc import StatusCode

from rpc.chat_limits import MAX_MESSAGES, MAX_TOOL_CALLS, MAX_TOOLS
from rpc.errors import ServiceError, invalid_field, no_chat_template, queue_full, unavailable
from tokenizer_service.chat import Chat, Message, Tool, ToolCall
from tokenizer_service.encoder import EncodeOptions
from tokenizer_service.errors import InvalidInput, NoChatTemplate, Overloaded, RendererClosed, TemplateError
from tokenizer_service.json_values import json_object, plain_json
from tokenmill.v1 import gateway_pb2, tokenizer_pb2

RETRY_AFTER_SECONDS = 0.5


def check_chat_size(message: tokenizer_pb2.ChatPrompt, max_bytes: int) -> int:
    """The bytes of a chat, all of it. To be asked first: what comes after takes longer the larger the chat.

    Errors: InvalidInput.
    """
    size = message.ByteSize()
    if size > max_bytes:
        raise InvalidInput("messages", f"the chat has {size} bytes, at most {max_bytes} are taken")
    _check_count("messages", len(message.messages), MAX_MESSAGES)
    _check_count("tools", len(message.tools), MAX_TOOLS)
    for index, one in enumerate(message.messages):
        _check_count(f"messages[{index}].tool_calls", len(one.tool_calls), MAX_TOOL_CALLS)
    return size


def chat_from(message: tokenizer_pb2.ChatPrompt) -> Chat:
    """The chat of a request. Errors: InvalidInput where JSON is none, or cannot be given to a template."""
    given = message.add_generation_prompt if message.HasField("add_generation_prompt") else None
    return Chat(
        messages=[_message(one, f"messages[{index}]") for index, one in enumerate(message.messages)],
        tools=[
            Tool(tool.name, tool.description, json_object(tool.parameters, f"tools[{index}].parameters"))
            for index, tool in enumerate(message.tools)
        ],
        template_kwargs=plain_json(message.template_kwargs, "template_kwargs"),
        add_generation_prompt=given,
        continue_final_message=message.continue_final_message,
    )


def options_from(request: tokenizer_pb2.EncodeRequest) -> EncodeOptions:
    """How the texts of a request become ids."""
    return EncodeOptions(
        add_special_tokens=request.add_special_tokens if request.HasField("add_special_tokens") else None,
        parse_special_tokens=request.parse_special_tokens,
        truncate_prompt_tokens=request.truncate_prompt_tokens if request.HasField("truncate_prompt_tokens") else None,
        with_offsets=request.offsets,
    )


@contextmanager
def named_errors(model: str, input_kind: str) -> Iterator[None]:
    """Raise the domain's errors in the body as ServiceErrors; fields of a chat stand below `chat`."""
    try:
        yield
    except InvalidInput as error:
        is_shared = error.field == "truncate_prompt_tokens" or input_kind != "chat"
        raise invalid_field(error.field if is_shared else f"chat.{error.field}", error.message) from None
    except NoChatTemplate:
        raise no_chat_template(model) from None
    except TemplateError as error:
        message = f"chat.messages: the chat template of model {model!r} gave no prompt: {error}"
        raise ServiceError(StatusCode.INVALID_ARGUMENT, "TEMPLATE_FAILED", message, field="chat.messages") from None
    except Overloaded:
        raise queue_full("the tokenizer service's queue", RETRY_AFTER_SECONDS) from None
    except RendererClosed:
        raise unavailable("DRAINING", "the tokenizer service is shutting down") from None


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidInput(field, f"at most {limit}, got {count}")


def _message(message: gateway_pb2.ChatMessage, field: str) -> Message:
    calls = [
        ToolCall(call.name, json_object(call.arguments, f"{field}.tool_calls[{index}].arguments"), call.id)
        for index, call in enumerate(message.tool_calls)
    ]
    return Message(
        role=message.role,
        content=message.content,
        name=message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
    )
