"""Run a model worker: `python -m model_worker --model PATH`."""

from __future__ import annotations

import sys

from model_worker.server import WorkerService
from model_worker.settings import WorkerSettings
from rpc.process import run
from rpc.settings import from_command_line

PROGRAM = "model_worker"


def main() -> None:
    """Serve until told to stop."""
    settings = from_command_line(WorkerSettings, PROGRAM, sys.argv[1:])
    run(lambda: WorkerService(settings), settings, PROGRAM)


if __name__ == "__main__":
    main()
