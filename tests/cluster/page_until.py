"""Runs a script that never ends until it has printed some lines; blank ones do not count."""

import os
import signal
import subprocess
import sys


def main(count, script):
    process = subprocess.Popen(
        ["sh", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            count -= bool(line.strip())
            if not count:
                return 0
        return process.wait() or 1
    finally:
        # The leader of the group is not waited for yet, so the group's id is still its own.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
