"""Files that change while they are used: replaced, written over, moved by a link, broken, gone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from rpc.reloaded import RefusedContentError, Reloaded, read_file
from tests.certificates import replace

if TYPE_CHECKING:
    from pathlib import Path


def reloaded(*files: Path) -> Reloaded[list[bytes]]:
    def read() -> list[bytes]:
        contents = [read_file(file, "--file") for file in files]
        if b"broken" in contents:
            raise RefusedContentError("--file: broken")
        return contents

    return Reloaded("--file", files, read)


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    content = reloaded(file)
    assert content.current is content.current


def test_a_replaced_and_an_overwritten_file_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    content = reloaded(file)
    replace(file, "two")
    assert content.current == [b"two"]
    file.write_text("three")
    assert content.current == [b"three"]


def test_a_link_that_is_moved_is_followed_as_kubernetes_moves_that_of_a_mounted_secret(tmp_path: Path) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.crt").write_text(name)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    content = reloaded(tmp_path / "tls.crt")
    assert content.current == [b"..1"]
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert content.current == [b"..2"]


def test_what_is_broken_or_gone_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    content = reloaded(file)
    with caplog.at_level(logging.INFO, "tokenmill.reloaded"):
        replace(file, "broken")
        assert [content.current for _ in range(3)] == [[b"one"]] * 3
        file.unlink()
        assert [content.current for _ in range(3)] == [[b"one"]] * 3
        file.write_text("two")
        assert content.current == [b"two"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "INFO"]


def test_there_has_to_be_something_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(RefusedContentError, match=r"--file: .*No such file"):
        reloaded(tmp_path / "file")
