"""Start Python modules that cannot outlive us.

`python -m cli.tied PARENT MODULE ARGUMENT…` asks the kernel to kill this process when process PARENT dies, in whatever
way, and then becomes `python -m MODULE ARGUMENT…`. A second exec, because the usual place for this (`preexec_fn`)
runs Python between fork and exec, which is unsafe in a process with threads, and gRPC has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def command(module: str, *arguments: str) -> list[str]:
    """The command line for `python -m module arguments…`, tied to this process.

    To be started from the main thread: Linux counts the death of the starting *thread*, and the main one ends last.
    """
    return [sys.executable, "-m", "cli.tied", str(os.getpid()), module, *arguments]


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the module."""
    parent, *module_and_arguments = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before it could be watched
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-m", *module_and_arguments])  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main(sys.argv[1:])
