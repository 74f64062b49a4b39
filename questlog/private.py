"""Files that only their owner can read."""

import os
from pathlib import Path
from pwd import struct_passwd
from typing import IO


def write(path: Path, text: str, owner: struct_passwd | None = None) -> None:
    """Write a file of mode 0600, for `owner` where given; it appears whole and on disk, or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if owner:
            os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync(path.parent)


def create(path: Path) -> IO[bytes]:
    """Open a new file of mode 0600 to write; raises FileExistsError where there is one."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")


def append(path: Path) -> IO[bytes]:
    """Open a file of mode 0600 to write at its end."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def sync(folder: Path) -> None:
    """Bring a folder's entries to disk: what was renamed in it stays renamed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
