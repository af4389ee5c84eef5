"""A first terminal: starts a script that does not end, and returns once its cluster is ready.

    python page_terminal.py SCRIPT OUTPUT PID_FILE

The script goes on, in a process group of its own, as a terminal gives to what is typed there; its
output so far is printed.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

from ottla_ops.banner import is_ready

END_OF_BANNER = "Ctrl-C stops everything"
URL_OF_BANNER = re.compile(r"\| +(http://\S+)$", re.MULTILINE)
POLL_INTERVAL_S = 0.1


def main(script, output, pid_file):
    with Path(output).open("w") as stdout:
        process = subprocess.Popen(
            ["sh", script],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    Path(pid_file).write_text(str(process.pid))
    while not is_up(text := Path(output).read_text()):
        if process.poll() is not None:
            print(text)
            return process.returncode or 1
        time.sleep(POLL_INTERVAL_S)
    print(text)
    return 0


def is_up(text):
    """Whether the banner is there, and every broker that it names is ready.

    The banner comes when most of them are, which is no time for a reader.
    """
    return END_OF_BANNER in text and all(map(is_ready, URL_OF_BANNER.findall(text)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
