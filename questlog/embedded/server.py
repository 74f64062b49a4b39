"""A server of ours: one process, or family of processes, that alone touches its data."""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from questlog import private
from questlog.embedded.house import EmbeddedError, House
from questlog.process import end, spawn

SECONDS_TO_START = 300
SECONDS_TO_STOP = 60
SECONDS_TO_END_ALONE = 2  # what an earlier supervisor's death does to its servers


@dataclass
class Server(ABC):
    """One of the two: a process that alone holds the lock on its data, from its first child to its last."""

    house: House
    name: str
    stop_signal: signal.Signals
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def data(self) -> Path:
        """The folder the server keeps its data in."""
        return self.house.folder / self.name.lower()

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.house.home / f"{self.name.lower()}.log"

    async def start(self) -> None:
        """Start and return once the server answers; raises EmbeddedError."""
        lock = await self._lock_data()
        try:
            await self._prepare(lock)
            self.process = self._spawn(self._command(), lock)
            self._schedule(self.process.pid)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(self.process.pid).encode(), 0)
        except OSError as error:
            raise EmbeddedError(f"{self.name} does not start: {error}") from error
        finally:
            os.close(lock)
        await self._answering(self.process)

    async def stop(self) -> None:
        """Stop, if it runs."""
        if self.process and self.process.poll() is None:
            await end(self.process, self.stop_signal, SECONDS_TO_STOP)

    @abstractmethod
    async def _prepare(self, lock: int) -> None: ...

    @abstractmethod
    def _schedule(self, pid: int) -> None:
        """Say how the server shares the machine's CPUs with others."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    @abstractmethod
    async def _answers(self) -> bool: ...

    def _spawn(self, command: Sequence[str | Path], lock: int) -> subprocess.Popen[bytes]:
        with private.append(self.log) as log:
            return spawn(
                command,
                dies_with_parent_by=self.stop_signal,
                user=self.house.user,
                env={"LC_ALL": "C", "PATH": os.defpath},
                cwd=self.house.folder,
                output=log,
                keep=[lock],
            )

    async def _lock_data(self) -> int:
        """The lock, taken, whose file holds the server's process id.

        Every process that touches the data inherits this lock, so a free one proves that none is left.
        """
        lock = os.open(self.data.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        if not await _taken(lock, SECONDS_TO_END_ALONE):
            self._signal(lock)
            if not await _taken(lock, SECONDS_TO_STOP):
                left = process_id(lock).decode()
                os.close(lock)
                raise EmbeddedError(f"{self.name} of an earlier start does not end: end process {left}, then try again")
        return lock

    def _signal(self, lock: int) -> None:
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(process_id(lock)), self.stop_signal)

    async def _answering(self, process: subprocess.Popen[bytes]) -> None:
        try:
            async with asyncio.timeout(SECONDS_TO_START):
                while not await self._answers():
                    if process.poll() is not None:
                        raise EmbeddedError(f"{self.name} ended while starting: {self.log} says why")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise EmbeddedError(f"{self.name} does not answer: {self.log} may say why") from None


async def _taken(lock: int, patience: float) -> bool:
    """Take the lock, waiting up to so many seconds for whoever holds it."""
    until = time.monotonic() + patience
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.05)


def process_id(lock: int) -> bytes:
    """The process id in a server's lock file, in digits."""
    return os.pread(lock, 20, 0)
