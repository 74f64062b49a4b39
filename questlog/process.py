"""Child processes that outlive neither their parent nor their usefulness."""

import asyncio
import contextlib
import ctypes
import gc
import os
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pwd import struct_passwd
from typing import IO

PR_SET_PDEATHSIG = 1
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # Python and older C libraries have no name for the call
SCHED_ATTR = struct.Struct("=IIQiIQQQ")
KEEP_POLICY = 0x08  # the kernel's SCHED_FLAG_KEEP_POLICY
TURN_NANOSECONDS = 100_000


def spawn(
    command: Sequence[str | Path],
    *,
    dies_with_parent_by: signal.Signals = signal.SIGTERM,
    user: struct_passwd | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    stdin: int | None = subprocess.DEVNULL,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, out of reach of the terminal's Ctrl-C, whose files only `user` can read.

    On Linux the kernel sends it `dies_with_parent_by` when the thread that called this ends, however it ends.
    """
    return subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=stdin,
        stdout=output,
        stderr=output,
        env=env,
        cwd=cwd,
        pass_fds=keep,
        umask=0o077,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        start_new_session=True,
        preexec_fn=_dies_with_parent(dies_with_parent_by),  # noqa: PLW1509 - a change of user clears the request, so only the child can make it
    )


def settle_memory() -> None:
    """Let the garbage collector pass over what is there by now and will stay: it would go through it again and again.

    What comes it looks at in small parts. A question leaves some 300 objects that only it can free: to free those of
    50,000 allocations at once holds up everybody for 80 ms, those of 10,000 for 16. With 2,000 it would look at the
    events of a large request again and again before it is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def give_way(pid: int, niceness: int) -> None:
    """Let other processes on the machine go before this one: `niceness`, as of `nice`, is added to what it has."""
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + niceness)
    weigh_session(pid, niceness)


def take_short_turns(pid: int) -> None:
    """Ask for turns on the CPU of a tenth of a millisecond: Linux lets the process in between the longer turns of
    others, and gives it no more in all. For one that others wait for, and that is soon done with what they ask.

    Kernels before 6.12 and other systems do not know such turns, and nothing changes there; nor for a process with
    real-time priority.
    """
    if sys.platform == "linux" and (call := SCHED_SETATTR.get(platform.machine())):
        niceness = os.getpriority(os.PRIO_PROCESS, pid)
        attributes = SCHED_ATTR.pack(SCHED_ATTR.size, 0, KEEP_POLICY, niceness, 0, TURN_NANOSECONDS, 0, 0)
        ctypes.CDLL(None).syscall(call, pid, attributes, 0)


def weigh_session(pid: int, niceness: int) -> bool:
    """Where the process leads a session, let other sessions go before it as well; says whether that was new.

    Linux may weigh sessions against each other, and only within one their processes by how nice they are.
    """
    autogroup = Path(f"/proc/{pid}/autogroup")
    if os.getsid(pid) != pid or not autogroup.exists() or autogroup.read_text().endswith(f" {niceness}\n"):
        return False
    # It may be forbidden, and without privileges one such request is granted in a tenth of a second.
    with contextlib.suppress(OSError):
        autogroup.write_text(str(niceness))
    return True


def children(pid: int) -> list[int]:
    """The ids of the process's children; none where it has ended, or the system is not Linux."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process to end, and return its exit status."""
    while (status := process.poll()) is None:  # noqa: ASYNC110 - a child that a loop watches dies when the loop closes
        await asyncio.sleep(0.02)
    return status


async def end(process: subprocess.Popen[bytes], by: signal.Signals, patience: float) -> None:
    """Ask the process to end; after `patience` seconds, make it."""
    process.send_signal(by)
    try:
        async with asyncio.timeout(patience):
            await ended(process)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await ended(process)


def _dies_with_parent(by: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask_for_signal() -> None:
        prctl(PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:
            os._exit(1)

    return ask_for_signal
