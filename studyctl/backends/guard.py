"""Runs a command that ends with its caller: ``python -I guard.py <command> ...``, its stdin a pipe that the caller holds.

The command and all that it starts are a process group, which is killed as soon as the pipe is closed. So the installer of a killed
``sync`` does not go on writing into an environment that the next ``sync`` makes.
"""

import os
import signal
import subprocess
import sys
import threading

ORPHANED = 70
"""Exit code if the caller is gone."""


def main(command: list[str]) -> int:
    """Run the command and return its exit code; 128 plus the signal's number if a signal killed it."""
    signal.signal(
        signal.SIGINT, lambda *_: None
    )  # Ctrl-C also reaches the caller, whose end ends this process
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_caller() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(process.pid, signal.SIGKILL)
        os._exit(ORPHANED)

    threading.Thread(target=end_with_caller, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
