from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from rpc.errors import ServiceError
from tokenizer_service.served_tokenizers import ServedTokenizer, ServedTokenizers, named_folders


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


@pytest.mark.parametrize(
    ("values", "folders"),
    [
        (["/models/tiny"], {"tiny": "/models/tiny"}),
        (["small=/models/tiny", "/models/large/"], {"small": "/models/tiny", "large": "/models/large"}),
        (["a=/models/x=y"], {"a": "/models/x=y"}),
    ],
)
def test_folders_are_named_by_the_operator_or_by_themselves(values: list[str], folders: dict[str, str]) -> None:
    assert named_folders(values) == {name: Path(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("values", [["=/models/tiny"], ["tiny="], ["tiny=/a", "/b/tiny"], ["/"]])
def test_what_names_no_folder_or_one_name_twice_is_refused_in_one_line(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^--model [^\n]*$"):
        named_folders(values)
