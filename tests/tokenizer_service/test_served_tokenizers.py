from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import grpc
import pytest

from rpc.errors import ServiceError
from tokenizer_service.served_tokenizers import ServedTokenizer, ServedTokenizers


def served(name: str) -> ServedTokenizer:
    return cast("ServedTokenizer", SimpleNamespace(name=name))


def test_an_empty_name_means_the_only_model() -> None:
    only = served("tiny")
    assert ServedTokenizers([only]).find("") is ServedTokenizers([only]).find("tiny") is only


def test_an_empty_name_among_several_names_them() -> None:
    with pytest.raises(ServiceError) as caught:
        ServedTokenizers([served("b"), served("a")]).find("")
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "model")
    assert "a, b" in caught.value.message


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(ServiceError) as caught:
        ServedTokenizers([served("a")]).find("b")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
