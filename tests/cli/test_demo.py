from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.chat_stream import Answer
from cli.demo import described, main
from tests.cli.model_folder import complete_folder
from tests.cli.stack_support import FAKES, children
from tests.clients.canned_gateway import TEXT

ANSWER = Answer(
    seconds_to_first_text=0.25,
    seconds_of_text=2.0,
    tokens=81,
    prompt_tokens=44,
    finish_reason="END_OF_SEQUENCE",
)


def test_a_demo_prints_the_answer_and_what_it_cost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(complete_folder(tmp_path / "model")), "--prompt", "Hello?"], FAKES) == 0
    out, err = capfd.readouterr()
    assert f"\n> Hello?\n\n{TEXT}\n\ntime to first token " in out
    assert "gateway: ready\n" in err
    assert children() == []


def test_a_service_that_fails_is_told_in_its_own_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    modules = dataclasses.replace(FAKES, worker="tests.cli.no_such_service")
    assert main(["--model", str(complete_folder(tmp_path / "model"))], modules) == 1
    assert "demo: worker ended with exit code 1\n" in capfd.readouterr().err


def test_the_cost_of_an_answer_is_one_line() -> None:
    assert (
        described(ANSWER)
        == "time to first token 250 ms · 40.0 tokens/s · 44 prompt + 81 generated tokens · END_OF_SEQUENCE"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import sys; from cli.up import main; from tests.cli.stack_support import FAKES\n"
        "sys.exit(main(['--free-ports', '--model', sys.argv[1]], FAKES))"
    )
    model = complete_folder(tmp_path / "model")
    command = [sys.executable, "-c", script, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        shown = "".join(iter(running.stdout.readline, "Ctrl-C stops all three.\n"))
        assert "tokenmill.v1.InferenceService/StreamChat" in shown
        services = psutil.Process(running.pid).children()
        assert len(services) == 3
        running.send_signal(number)
        assert running.wait(timeout=30) == 0
    assert not any(service.is_running() for service in services)


@pytest.mark.model
@pytest.mark.timeout(600)
def test_the_real_demo_answers_sensibly(demo_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(demo_model), "--prompt", "What is the capital of France?"]) == 0
    assert "Paris" in capfd.readouterr().out
    assert children() == []
