"""Disks that fill up, fail and lose their power, for real broker processes.

All of it needs root, and some of it a Linux with loop devices: `needs` skips a test elsewhere,
saying what is missing. Whatever is mounted or attached here is taken down again.
"""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

MEBIBYTE = 1 << 20

EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2
"""Shut down at once, without writing the journal first: what no fsync covers is lost."""

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878

FILLED_BY_WRITING_BYTES = 8 * MEBIBYTE

COMMAND_TIMEOUT_S = 30
RETRY_INTERVAL_S = 0.1


def needs(*programs, loop_devices=False):
    """Skips a test where the machine cannot do what it asks for."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if loop_devices and not Path("/dev/loop-control").exists():
        missing.append("loop devices")
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def run(*command):
    """Run a program; its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout.strip()


@contextmanager
def tmpfs(path, size_bytes):
    """A file system in memory of that size, mounted at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "ottla-test", str(path))
    try:
        yield path
    finally:
        run("umount", "--lazy", str(path))


def fill_up(path):
    """Take every free byte of the file system with a file of nothing; returns the file."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        # Nearly all at once, without writing it; then what is left, down to the last byte.
        state = os.statvfs(path)
        size_bytes = state.f_bavail * state.f_frsize - FILLED_BY_WRITING_BYTES
        if size_bytes > 0:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            file.seek(size_bytes)
        chunk = bytes(MEBIBYTE)
        while chunk:
            try:
                file.write(chunk)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                chunk = chunk[: len(chunk) // 2]
    return ballast


def remove_leftovers():
    """Unmount and detach disks of processes that are gone, by the pid in the image's name."""
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines():
        device, _, image = line.strip().partition(" ")
        match = re.search(r"/disk-(\d+)-\d+\.img( \(deleted\))?$", image)
        if match and not Path(f"/proc/{match[1]}").exists():
            subprocess.run(["umount", "--lazy", device], capture_output=True, check=False)
            subprocess.run(["losetup", "--detach", device], capture_output=True, check=False)


class PoweredDisk:
    """An ext4 file system on a loop device, whose power can be cut.

    Use it as a context manager: it is mounted inside, and gone afterwards.
    """

    def __init__(self, image, path, size_bytes=96 * MEBIBYTE):
        self.path = path
        self._image = image
        self._size_bytes = size_bytes
        self._device = None
        self._mounted = False

    def __enter__(self):
        self.path.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(self._size_bytes)
        try:
            self._device = run("losetup", "--find", "--show", str(self._image))
            run("mkfs.ext4", "-q", "-F", self._device)
            self._mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._mounted:
            run("umount", "--lazy", str(self.path))
            self._mounted = False
        if self._device is not None:
            run("losetup", "--detach", self._device)
            self._device = None

    def cut_power(self):
        """Lose everything that was not synced, now; every access fails from here on."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            flags = EXT4_GOING_FLAGS_NOLOGFLUSH.to_bytes(4, "little")
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, flags)
        finally:
            os.close(descriptor)

    def restore_power(self):
        """Mount what is left; no process may have files open on it.

        Whoever made a mount namespace meanwhile holds the file system that was shut down, and
        mounting gives back that one, until it is gone there as well.
        """
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            run("umount", str(self.path))
            self._mounted = False
            self._mount()
            if self._takes_files():
                return
            assert time.monotonic() < deadline_s, f"{self.path} is held by another mount namespace"
            time.sleep(RETRY_INTERVAL_S)

    def _takes_files(self):
        probe = self.path / ".power-is-back"
        try:
            probe.touch()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        probe.unlink()
        return True

    @contextmanager
    def frozen(self):
        """Neither take writes nor fail them: whoever writes hangs until the block is left."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
            try:
                yield
            finally:
                fcntl.ioctl(descriptor, FITHAW, 0)
        finally:
            os.close(descriptor)

    def _mount(self):
        run("mount", "-t", "ext4", self._device, str(self.path))
        self._mounted = True


def injecting(calls, error, when, *target):
    """The command that runs `target`, or traces it with `-p`, and makes its system calls fail."""
    return (
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"),
        *("-e", f"inject={calls}:error={error}:when={when}", *target),
    )


@contextmanager
def failing_calls(pid, calls, error="EIO", when="1+"):
    """System calls of a running process that fail from now on.

    Args:
        pid: the process, all its threads included.
        calls: comma-separated names.
        error: what they fail with.
        when: which of them, as strace's `when`.
    """
    tracer = subprocess.Popen(
        injecting(calls, error, when, "-p", str(pid)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield tracer
    finally:
        tracer.terminate()
        try:
            tracer.wait(COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
