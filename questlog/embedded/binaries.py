"""The servers' binaries, where whoever runs them can read them."""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pwd import struct_passwd

from questlog.embedded.house import SYSTEM_FOLDER, EmbeddedError


def readable(distribution: str, package: str, user: struct_passwd | None) -> Path:
    """The wheel's folder, or a copy of it where the system user could not read the wheel itself."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"the package {distribution} is not installed: install it, or set both URLs")
    folder = Path(spec.submodule_search_locations[0]).resolve()
    if user is None or all(path.stat().st_mode & 0o001 for path in [folder, *folder.parents]):
        return folder
    copy = SYSTEM_FOLDER / f"{distribution}-{importlib.metadata.version(distribution)}"
    if not copy.exists():
        _copy_for_everybody([folder, folder.with_name(package + ".libs")], copy)
    return copy / package


def _copy_for_everybody(folders: Sequence[Path], target: Path) -> None:
    draft = Path(tempfile.mkdtemp(dir=target.parent))
    for folder in folders:
        if folder.exists():
            shutil.copytree(folder, draft / folder.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [draft, *draft.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755)
    os.sync()
    try:
        draft.rename(target)
    except OSError:  # somebody else was quicker
        shutil.rmtree(draft)
