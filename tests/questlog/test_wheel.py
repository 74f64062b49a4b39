"""The wheel, in an environment of its own somewhere else, serves and migrates and adds one name to it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as others would build it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that nobody but its owner can enter, in which another package is called `schema`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    folder.chmod(0o700)
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = folder / "constraints.txt"
    locked.write_text("\n".join(re.findall(r"^\S+==\S+(?: ; [^\\\n]+)?", lock, re.MULTILINE)))
    run(environment / "bin" / "pip", "install", "--quiet", "--constraint", locked, wheel, cwd=folder)
    (site_packages(environment) / "schema.py").write_text("OWNER = 'somebody else'\n")
    return environment


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


def site_packages(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


def elsewhere(**settings: str) -> dict[str, str]:
    """The environment variables of somebody who has never heard of this repository."""
    ours = ("QUESTLOG_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | settings


def run(*command: str | Path, cwd: Path, **settings: str) -> str:
    """What it prints."""
    return subprocess.run(
        command, cwd=cwd, env=elsewhere(**settings), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_a_wheel_holds_one_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"questlog", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}


def test_a_wheel_brings_no_tests_and_no_caches(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "test" in name or "__pycache__" in name]


def test_the_schema_of_others_stays_theirs(environment: Path) -> None:
    question = "import questlog.private, schema; print(schema.OWNER)"
    assert run(environment / "bin" / "python", "-c", question, cwd=environment) == "somebody else\n"
    assert "type Query" in run(environment / "bin" / "questlog", "schema", cwd=environment)


def test_a_wheel_migrates(environment: Path, home: Path) -> None:
    for revision in ("head", "base", "head"):
        run(environment / "bin" / "questlog", "migrate", revision, cwd=home.parent, QUESTLOG_HOME=str(home))


def test_a_wheel_serves(environment: Path, home: Path) -> None:
    with subprocess.Popen(
        [environment / "bin" / "questlog", "serve", "--port", "0"],
        env=elsewhere(QUESTLOG_HOME=str(home)),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        url = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        answer = httpx.post(url, json={"query": "{ viewer { role } }"}, trust_env=False, timeout=10)
        process.send_signal(signal.SIGINT)
        assert answer.json()["data"] == {"viewer": {"role": "ANONYMOUS"}}
        assert process.wait(60) == 0
