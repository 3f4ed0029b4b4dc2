"""Folders and their names, as an operator writes them."""

from pathlib import Path

import pytest

from rpc.named_folders import named_folders


@pytest.mark.parametrize(
    ("values", "folders"),
    [
        (["/models/tiny"], {"tiny": "/models/tiny"}),
        (["small=/models/tiny", "/models/large/"], {"small": "/models/tiny", "large": "/models/large"}),
        (["a=/models/x=y"], {"a": "/models/x=y"}),
    ],
)
def test_folders_are_named_by_the_operator_or_by_themselves(values: list[str], folders: dict[str, str]) -> None:
    assert named_folders("--model", values) == {name: Path(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("values", [["=/models/tiny"], ["tiny="], ["tiny=/a", "/b/tiny"], ["/"]])
def test_what_names_no_folder_or_one_name_twice_is_refused_in_one_line(values: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^--lora-modules [^\n]*$"):
        named_folders("--lora-modules", values)
