"""Compiled code is read only from where nobody else can have put it."""

import os
from pathlib import Path

import pytest

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.loading.private_folder import private_folder


def test_a_missing_folder_is_made_for_this_user_alone(tmp_path):
    made = private_folder(tmp_path / "a" / "b", "--compile-cache")
    assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o722])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(UnavailableOptionError, match=r"--compile-cache .*: other users may write there"):
        private_folder(tmp_path, "--compile-cache")
    private_folder(tmp_path / "of-its-own", "--compile-cache")


def test_a_folder_of_another_user_is_refused_unless_it_is_root(tmp_path, monkeypatch):
    stat = os.stat_result

    def owned_by(owner):
        found = tmp_path.stat()
        monkeypatch.setattr(type(tmp_path), "stat", lambda _: stat((*found[:4], owner, *found[5:])))

    owned_by(0)
    private_folder(tmp_path, "--compile-cache")
    owned_by(os.geteuid() + 1)
    with pytest.raises(UnavailableOptionError, match="other users may write there"):
        private_folder(tmp_path, "--compile-cache")


def test_what_cannot_be_made_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableOptionError, match=r"--compile-cache .*file/below: Not a directory"):
        private_folder(tmp_path / "file" / "below", "--compile-cache")


def test_a_user_without_a_home_is_told(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UnavailableOptionError, match="--compile-cache ~/compiled: Could not determine home"):
        private_folder(Path("~/compiled"), "--compile-cache")
