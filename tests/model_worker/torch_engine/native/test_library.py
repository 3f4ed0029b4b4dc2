"""Our C++ is compiled once, and whoever cannot compile it is told why."""

import pytest

from model_worker.loading.load_errors import UnavailableOptionError
from model_worker.torch_engine.native.library import NativeLibrary


def test_it_is_compiled_once(native, tmp_path):
    NativeLibrary(tmp_path)
    [library] = tmp_path.iterdir()
    built = library.stat().st_mtime_ns
    NativeLibrary(tmp_path)
    assert [*tmp_path.iterdir()] == [library]
    assert library.stat().st_mtime_ns == built


def test_no_compiler_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnavailableOptionError, match="no C\\+\\+ compiler"):
        NativeLibrary(tmp_path)


def test_a_compiler_that_fails_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UnavailableOptionError, match="failed"):
        NativeLibrary(tmp_path / "empty")
    assert not [*(tmp_path / "empty").iterdir()]


def test_what_the_compiler_says_is_told(tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'crew.cpp:1: no threads here' >&2\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(UnavailableOptionError, match=r"failed: crew.cpp:1: no threads here"):
        NativeLibrary(tmp_path)


def test_a_library_that_cannot_be_loaded_is_an_error_that_says_so(tmp_path):
    NativeLibrary(tmp_path)
    [library] = tmp_path.iterdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / library.name).write_text("not a library")
    with pytest.raises(UnavailableOptionError, match=r"--compile-cache: .*tokenmill"):
        NativeLibrary(other)
