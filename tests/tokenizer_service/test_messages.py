"""The contract's chat messages as the domain's."""

from __future__ import annotations

import math

import pytest

from rpc.chat_limits import MAX_MESSAGES, MAX_TOOL_CALLS, MAX_TOOLS
from tokenizer_service.errors import InvalidInput
from tokenizer_service.messages import chat_from, check_chat_size
from tokenmill.v1 import tokenizer_pb2


def chat(arguments="", parameters=""):
    return tokenizer_pb2.ChatPrompt(
        messages=[{"role": "assistant", "tool_calls": [{"name": "add", "arguments": arguments}]}],
        tools=[{"name": "add", "parameters": parameters}],
    )


def test_tool_json_keeps_its_integers_and_the_order_of_its_keys():
    made = chat_from(chat('{"b": 1, "a": 2.5}', '{"type": "object"}'))
    assert list(made.messages[0].tool_calls[0].arguments.items()) == [("b", 1), ("a", 2.5)]
    assert isinstance(made.messages[0].tool_calls[0].arguments["b"], int)
    assert made.tools[0].parameters == {"type": "object"}


def test_no_text_is_an_empty_object():
    made = chat_from(chat())
    assert made.messages[0].tool_calls[0].arguments == made.tools[0].parameters == {}


def test_json_that_is_none_is_refused_by_the_field_it_stands_in():
    with pytest.raises(InvalidInput) as refused:
        chat_from(chat(arguments="{"))
    assert refused.value.field == "messages[0].tool_calls[0].arguments"
    with pytest.raises(InvalidInput) as refused:
        chat_from(chat(parameters="[1]"))
    assert refused.value.field == "tools[0].parameters"
    with pytest.raises(InvalidInput) as refused:
        chat_from(tokenizer_pb2.ChatPrompt(template_kwargs={"x": math.nan}))
    assert refused.value.field == "template_kwargs"


def called(times):
    return {"role": "assistant", "tool_calls": [{"name": "f"}] * times}


@pytest.mark.parametrize(
    ("oversized", "field"),
    [
        (tokenizer_pb2.ChatPrompt(messages=[{"content": "x" * 2**20}]), "messages"),
        (tokenizer_pb2.ChatPrompt(tools=[{"parameters": "x" * 2**20}]), "messages"),
        (tokenizer_pb2.ChatPrompt(messages=[{}] * (MAX_MESSAGES + 1)), "messages"),
        (tokenizer_pb2.ChatPrompt(tools=[{}] * (MAX_TOOLS + 1)), "tools"),
        (tokenizer_pb2.ChatPrompt(messages=[{}, called(MAX_TOOL_CALLS + 1)]), "messages[1].tool_calls"),
    ],
    ids=["content", "tool", "messages", "tools", "tool calls"],
)
def test_a_chat_that_is_too_large_or_has_too_many_parts_is_refused_by_field(oversized, field):
    with pytest.raises(InvalidInput) as refused:
        check_chat_size(oversized, 2**20)
    assert refused.value.field == field


def test_a_chat_as_large_as_may_be_is_taken():
    message = tokenizer_pb2.ChatPrompt(messages=[called(MAX_TOOL_CALLS)] * 2, tools=[{}] * MAX_TOOLS)
    assert check_chat_size(message, message.ByteSize()) == message.ByteSize()
