"""Disks that take long for every sync, for real broker processes."""

from ottla_ops.local_cluster import BROKER_COMMAND

SYNCS = "fsync,fdatasync"

SLOW_DISK_PROGRAMS = ("strace", "setpriv")


def slow_syncs(delay_ms):
    """The command of a broker whose every sync takes so much longer.

    The broker ends with its tracer, however that ends: who started it knows the tracer alone.
    """
    return (
        *("strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={SYNCS}"),
        *("-e", f"inject={SYNCS}:delay_exit={delay_ms * 1000}"),
        *("setpriv", "--pdeathsig", "KILL", *BROKER_COMMAND),
    )
