"""Run one command for as long as standard input stays open, then stop it and remove its scratch folder.

The other end of the pipe belongs to the test session: however that ends, ``kill -9`` included, the pipe
closes. Started by path, with nothing but the standard library, so that it is up in milliseconds.
"""

import argparse
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
STOP_SECONDS = 5.0
# What the scratch folder holds beside the server's own files.
LOG_NAME = "server.log"


def run_tethered(command: list[str], *, scratch: Path, user: int | None, group: int | None) -> int:
    """Run ``command``, as ``user`` where one is given; return its exit code once it or the pipe has ended."""
    identity: dict[str, Any] = {} if user is None else {"user": user, "group": group, "extra_groups": []}
    with (scratch / LOG_NAME).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity,
        )
    while process.poll() is None and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
        pass
    # SIGINT is a prompt, orderly stop for PostgreSQL and for Valkey alike; SIGTERM would wait for clients.
    process.send_signal(signal.SIGINT)
    try:
        code = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        return run_tethered(options.command, scratch=options.scratch, user=options.user, group=options.group)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
