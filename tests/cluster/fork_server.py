"""The process that forks brokers: `python -m tests.cluster.fork_server`.

It imports the broker once; each broker is then a fork of it, which saves a second of processor time
at every start. Everything else is as with `python -m ottla_broker`: a process with an environment,
a working directory, a session and a log of its own, and the interpreter's usual end.

Requests and answers are lines of JSON on stdin and stdout, one at a time. When stdin ends, so does
this process, and the kernel kills the brokers that are left: no run leaves any behind, however it
was ended.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading

import ottla_broker.app  # noqa: F401 - imported for the forks
from ottla_broker.__main__ import main

PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000


def serve():
    """Answer requests until stdin ends; in a forked process: return its exit code."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            # A forked copy of a lock that another thread holds is held for ever.
            assert threading.active_count() == 1
            pid = os.fork()
            if pid == 0:
                become_broker(libc, **request["start"])
                return main([])
            answer = pid
        elif "wait_stopped" in request:
            pid = request["wait_stopped"]
            # Threads stop one after the other. WNOWAIT leaves an exit to be collected.
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            answer = None
        else:
            _, status = os.waitpid(request["collect"], 0)
            answer = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), flush=True)
    return 0


def become_broker(libc, environment, directory, log_path, network_namespace=None):
    """What `subprocess.Popen` does between fork and exec; and `nsenter --net`, if so told."""
    server = os.getppid()
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:
        os._exit(1)  # The server ended before the kernel knew what to do about it.
    if network_namespace is not None:
        namespace = os.open(network_namespace, os.O_RDONLY)
        if libc.setns(namespace, CLONE_NEWNET) != 0:
            os._exit(1)
        os.close(namespace)
    os.chdir(directory)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for taken, given in ((null, 0), (log, 1), (log, 2)):
        os.dup2(taken, given)
    os.close(null)
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)


if __name__ == "__main__":
    # Later forks share these pages with it as long as nobody writes to them.
    gc.collect()
    gc.freeze()
    sys.exit(serve())
