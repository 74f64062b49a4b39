"""Somebody who is not root can do in a clone of their own what README says."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
VISITOR = "questlog-visitor"

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What git would clone, with what is not committed yet, in a folder of the visitor's own."""
    folder = Path(visitor().pw_dir if os.geteuid() == 0 else tmp_path_factory.mktemp("visitor"), "clone")
    shutil.rmtree(folder, ignore_errors=True)
    listed = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]:
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    if os.geteuid() == 0:
        subprocess.run(["chown", "--recursive", f"{VISITOR}:", folder], check=True)
    yield folder
    shutil.rmtree(folder)


def visitor() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(VISITOR)
    except KeyError:
        subprocess.run(["useradd", "--create-home", VISITOR], check=True)
        return pwd.getpwnam(VISITOR)


def popen(*command: str, clone: Path, stdout: int | None = None) -> subprocess.Popen[str]:
    """Run it in the clone as the visitor, or where we are ordinary ourselves, as ourselves."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "NODE_")) or "proxy" in name.lower()
    }
    user = visitor() if os.geteuid() == 0 else None
    return subprocess.Popen(
        command,
        cwd=clone,
        env=kept | {"HOME": str(clone.parent), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdout=stdout,
        text=True,
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=[] if user else None,
    )


def run(*command: str, clone: Path) -> None:
    """Run it to its end, which has to be a good one."""
    with popen(*command, clone=clone) as process:
        assert process.wait() == 0


def test_make_test_passes(clone: Path) -> None:
    run("make", "test", clone=clone)


def test_the_demo_comes_to_its_end_and_starts_again_from_there(clone: Path) -> None:
    run("make", ".venv/questlog.stamp", clone=clone)
    for _ in range(2):
        with popen(".venv/bin/questlog", "demo", "--port", "0", clone=clone, stdout=subprocess.PIPE) as demo:
            assert demo.stdout
            printed = list(takewhile(lambda line: not line.startswith("Serving http://"), demo.stdout))
            demo.send_signal(signal.SIGINT)
            assert "They agree.\n" in printed
            assert demo.wait(60) == 0


def test_the_servers_run_as_their_user(clone: Path) -> None:
    run("make", ".venv/questlog.stamp", clone=clone)
    run(".venv/bin/questlog", "migrate", clone=clone)
    data = clone / ".questlog" / "servers"
    assert not data.is_symlink()
    assert {path.owner() for path in data.rglob("*")} == {clone.owner()}
