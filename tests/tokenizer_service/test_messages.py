"""The contract's chat messages as the domain's."""

from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import Struct

from tokenizer_service.errors import InvalidInput
from tokenizer_service.messages import chat_from, plain_json
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


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "[" * 100_000, "[1]", '"text"', "1"])
def test_what_is_no_json_object_is_refused_by_field(text):
    with pytest.raises(InvalidInput) as refused:
        chat_from(chat(arguments=text))
    assert refused.value.field == "messages[0].tool_calls[0].arguments"
    with pytest.raises(InvalidInput) as refused:
        chat_from(chat(parameters=text))
    assert refused.value.field == "tools[0].parameters"


def test_whole_numbers_of_a_struct_are_integers_again():
    struct = Struct()
    struct.update({"n": 3, "x": 0.5, "list": [1, {"deep": 2}], "flag": True, "none": None})
    plain = plain_json(struct)
    assert plain == {"n": 3, "x": 0.5, "list": [1, {"deep": 2}], "flag": True, "none": None}
    assert isinstance(plain["n"], int)
    assert isinstance(plain["list"][1]["deep"], int)
    assert plain["flag"] is True
