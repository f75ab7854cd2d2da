# SPDX-License-Identifier: MIT
"""Small file systems of their own: they fill up, turn read-only, lose power.

All mounts are made in a mount namespace of the test process alone, and loop
devices detach themselves with their last mount: whatever becomes of the
process, nothing stays behind but an image in a temporary directory.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

CLONE_NEWNS = 0x00020000

#: FS_IOC_SHUTDOWN, alias XFS_IOC_GOINGDOWN, and how: with the journal's
#: last transactions written out, or without.
SHUTDOWN = 0x8004587D
LOGFLUSH = 1
NOLOGFLUSH = 2

#: xfs takes nothing smaller, whatever is asked for.
XFS_LEAST = 300 << 20

FULL = (errno.ENOSPC, errno.EDQUOT)

MKFS: Dict[str, List[str]] = {
    # None reserved for root: it is root who fills it.
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}


def why_not(kind: str = "ext4") -> str:
    """Why there can be no such file system here, or ""."""
    if os.geteuid() != 0:
        return "needs root"
    if kind == "tmpfs":
        return ""
    program = MKFS[kind][0]
    if not shutil.which(program, path=os.defpath + ":/usr/sbin:/sbin"):
        return f"{program} is not installed"

    def known() -> bool:
        return kind in Path("/proc/filesystems").read_text().split()

    if not known() and shutil.which("modprobe"):
        subprocess.run(["modprobe", kind], check=False, capture_output=True)
    if not known():
        return f"the kernel has no {kind}"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    return ""


def own_mounts() -> None:
    """From now on what this thread mounts is seen by its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    run("mount", "--make-rprivate", "/")


def run(*command: object) -> str:
    """A command that must succeed; returns what it wrote."""
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True,
        env={**os.environ, "PATH": os.defpath + ":/usr/sbin:/sbin"},
    )
    if done.returncode != 0:
        raise OSError(
            f"{' '.join(map(str, command))}: status {done.returncode}: "
            f"{done.stdout}{done.stderr}"
        )
    return done.stdout


class Disk:
    """A file system on an image, or a tmpfs; mounted at ``point``."""

    def __init__(
        self, kind: str, size: int, mkfs: Sequence[str] = (),
        options: str = "",
    ) -> None:
        self.kind = kind
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="disk-", dir=base))
        self.image = self.directory / "image"
        self.point = self.directory / "mnt"
        self.point.mkdir()
        self.filler = self.point / "filler"
        self.size = max(size, XFS_LEAST) if kind == "xfs" else size
        self.options = options
        self.mounted = False
        try:
            self._make(mkfs)
        except BaseException:
            self.close()
            raise

    def _make(self, mkfs: Sequence[str]) -> None:
        if self.kind != "tmpfs":
            with open(self.image, "wb") as image:
                image.truncate(self.size)
            run(*MKFS[self.kind], *mkfs, self.image)
        self.mount()

    # --- mounting ---

    def mount(self, *options: str) -> None:
        words = [word for word in (self.options, *options) if word]
        if self.kind == "tmpfs":
            words.append(f"size={self.size}")
            source: object = "tmpfs"
        else:
            words.append("loop")
            source = self.image
        command = (
            "mount", "-t", self.kind, "-o", ",".join(words), source, self.point
        )
        # Another process may be faster with the same free loop device.
        for _ in range(4):
            try:
                run(*command)
                break
            except OSError:
                time.sleep(0.1)
        else:
            run(*command)
        self.mounted = True

    def unmount(self) -> None:
        """Nothing of it may be in use."""
        run("umount", self.point)
        self.mounted = False

    def remount(self, options: str) -> None:
        run("mount", "-o", f"remount,{options}", self.point)

    def close(self) -> None:
        """Unmount, whoever still uses it, and remove all of it."""
        if self.mounted:
            try:
                self.unmount()
            except OSError:
                run("umount", "--lazy", self.point)
            self.mounted = False
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- trouble ---

    def fill(self) -> None:
        """Another file takes all the room that is left. Again: once more."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self.filler, flags, 0o600)
        try:
            step = 64 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(fd, os.fstat(fd).st_size, step)
                except OSError as error:
                    if error.errno not in FULL:
                        raise
                    step //= 2
        finally:
            os.close(fd)

    def free(self) -> None:
        """That file goes, and the room comes back."""
        self.filler.unlink()

    def fill_inodes(self) -> int:
        """No file can be created any more; returns how many it took."""
        directory = self.point / "inodes"
        directory.mkdir()
        for number in range(100_000):
            try:
                (directory / str(number)).touch(exist_ok=False)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return number
        raise AssertionError("the file system has too many inodes")

    def free_inodes(self) -> None:
        shutil.rmtree(self.point / "inodes")

    def cut(self, how: int = NOLOGFLUSH) -> None:
        """Power cut: not a byte reaches the image from now on."""
        fd = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(fd)

    def revive(self) -> None:
        """After a cut, nobody using it any more: what a boot does."""
        self.unmount()
        self.mount()

    def set_immutable(self, name: str, on: bool) -> None:
        """No byte of that file can be changed, open or not."""
        run("chattr", "+i" if on else "-i", self.point / name)


def leftovers(point: Path) -> Optional[str]:
    """The name of a database that was set aside, if there is one."""
    found = sorted(each.name for each in point.glob("*.corrupt-*"))
    return found[0] if found else None
