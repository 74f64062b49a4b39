"""Where one home's servers keep their things, and whom they run as."""

import hashlib
import os
import pwd
import secrets
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

SYSTEM_USER = "questlog"
SYSTEM_FOLDER = Path("/var/lib/questlog")
LONGEST_SOCKET_PATH = 107


class EmbeddedError(RuntimeError):
    """The embedded servers cannot run; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class House:
    """Where one home's servers keep things, and whom they run as (None: whoever starts them)."""

    home: Path
    folder: Path
    sockets: Path
    user: pwd.struct_passwd | None

    @classmethod
    def open(cls, home: Path) -> Self:
        """The house of this home, made where it is missing; raises EmbeddedError and OSError."""
        user = _system_user() if os.geteuid() == 0 else None
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = _data_folder(home, user)
        return cls(home, folder, _socket_path(folder), user)

    def make(self, folder: Path) -> None:
        """Make a folder that is the servers' alone."""
        folder.mkdir(mode=0o700)
        if self.user:
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)


def _system_user() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root, and what root starts should be as weak as it can be."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", str(SYSTEM_FOLDER)]
        command = ["useradd", *options, "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedError(
                f"as root the embedded servers need a system user: run {' '.join(command)}, or start as somebody else"
            ) from error
        return pwd.getpwnam(SYSTEM_USER)


def _data_folder(home: Path, user: pwd.struct_passwd | None) -> Path:
    """`home/servers`; for root a link to a folder outside, since the system user may be unable to enter home."""
    link = home / "servers"
    if user:
        if not link.is_symlink():
            name = f"{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-{secrets.token_hex(4)}"
            link.symlink_to(SYSTEM_FOLDER / name)
        SYSTEM_FOLDER.mkdir(mode=0o755, exist_ok=True)
        SYSTEM_FOLDER.chmod(0o755)
    folder = link.resolve()
    if user and folder.parent != SYSTEM_FOLDER.resolve():
        raise EmbeddedError(f"{link} leads to {folder}, and not below {SYSTEM_FOLDER}: remove it")
    folder.mkdir(mode=0o700, exist_ok=True)
    if user:
        # The folder stays root's, so that what runs as the system user cannot plant links in root's way.
        os.chown(folder, 0, user.pw_gid)
        folder.chmod(0o750)
    return folder


def _socket_path(folder: Path) -> Path:
    """A folder yet to be made for the sockets; a short one elsewhere where Unix or arq could not take the path."""
    sockets = folder / "run"
    longest = sockets / ".s.PGSQL.5432"
    if len(os.fsencode(longest)) > LONGEST_SOCKET_PATH or quote(str(longest)) != str(longest):
        return Path(tempfile.gettempdir(), f"questlog-{secrets.token_hex(8)}")
    return sockets
