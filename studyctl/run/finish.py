"""What happens when a study ends."""

import subprocess

FINISH_SECONDS = 60


def run_on_finish(command: str, summary: str) -> str:
    """Run the user's ``on_finish`` command with the summary on its stdin; return what went wrong, or an empty string."""
    try:
        done = subprocess.run(
            command,
            shell=True,
            input=summary + "\n",
            text=True,
            capture_output=True,
            timeout=FINISH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"on_finish was ended after {FINISH_SECONDS} s"
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        return f"on_finish failed with exit code {done.returncode}" + (f": {last[0]}" if last else "")
    return ""
