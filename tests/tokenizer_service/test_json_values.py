"""JSON of callers: what templates could not be given is refused by field."""

from __future__ import annotations

import math

import pytest
from google.protobuf.struct_pb2 import Struct

from tokenizer_service.errors import InvalidInput
from tokenizer_service.json_values import MAX_DEPTH, json_object, plain_json


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": Infinity}', "[" * 100_000, "[1]", '"text"', "1"])
def test_what_is_no_json_object_is_refused_by_field(text):
    with pytest.raises(InvalidInput) as refused:
        json_object(text, "tools[0].parameters")
    assert refused.value.field == "tools[0].parameters"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1e999}', "not finite"),
        ('{"a": [-1e999]}', "not finite"),
        (r'{"a": "\ud800"}', "surrogate"),
        (r'{"a": {"\udfff x": 1}}', "surrogate"),
        (nested(MAX_DEPTH + 1), "deeper than 100"),
        (nested(900), "deeper than 100"),
        ('{"a":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}", "deeper than 100"),
    ],
)
def test_json_that_no_template_could_write_is_refused_by_field(text, why):
    with pytest.raises(InvalidInput, match=why) as refused:
        json_object(text, "field")
    assert refused.value.field == "field"


def test_what_is_unusual_but_sound_is_taken():
    assert json_object(r'{"a": "\ud83d\ude00 é", "b": 1e308}', "field") == {"a": "😀 é", "b": 1e308}
    assert json_object(nested(MAX_DEPTH), "field")
    assert json_object("", "field") == {}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [lambda x: x, lambda x: [x], lambda x: {"deep": [x]}])
def test_a_struct_with_a_number_that_is_not_finite_is_refused_by_field(number, place):
    struct = Struct()
    struct.update({"x": place(number)})
    with pytest.raises(InvalidInput, match="not finite") as refused:
        plain_json(struct, "template_kwargs")
    assert refused.value.field == "template_kwargs"


def test_whole_numbers_of_a_struct_are_integers_again():
    struct = Struct()
    struct.update({"n": 3, "x": 0.5, "list": [1, {"deep": 2}], "flag": True, "none": None, "huge": 1e300})
    plain = plain_json(struct, "template_kwargs")
    assert plain == {"n": 3, "x": 0.5, "list": [1, {"deep": 2}], "flag": True, "none": None, "huge": 1e300}
    assert isinstance(plain["n"], int)
    assert isinstance(plain["list"][1]["deep"], int)
    assert plain["flag"] is True
    assert isinstance(plain["huge"], float)
