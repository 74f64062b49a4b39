"""`questlog recompute` and `questlog import-milestones` beside a running installation, and what bad input gets."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.questlog.test_serve import Installation, assert_one_line, environ, questlog, serving

RECORD = {
    "userId": "kim",
    "kind": "QUEST_COMPLETED",
    "occurredAt": "2019-03-31T01:30:00+02:00",
    "questId": "q",
    "xp": 5,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("records") / "home"
    with serving(home) as installation:
        installation.ask("{ viewer { user { userId } } }", installation.token("student", "kim"))
        yield installation
    shutil.rmtree((home / "servers").resolve(), ignore_errors=True)


def told(ended: CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.long
def test_where_all_is_right_no_row_differs(running: Installation) -> None:
    everybody = questlog(running.home, "recompute")
    assert everybody.returncode == 0, everybody.stderr
    assert told(everybody) == ["0 rows differed, of 1 users and devices"]
    of_kim = questlog(running.home, "recompute", "--user", "kim", "--from", "2026-01-01", "--to", "2026-01-31")
    assert told(of_kim) == ["0 rows differed, of 1 users and devices"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--user", "nobody"], "there is no user 'nobody'"),
        (["--user", ""], "there is no user ''"),
        (["--from", "yesterday"], "--from must be a day such as 2026-01-31, and is 'yesterday'"),
        (["--to", "2026-02-30"], "--to must be a day"),
        (["--to", "20260101"], "--to must be a day"),
        (["--from", "2026-02-02", "--to", "2026-02-01"], "--from 2026-02-02 is after --to 2026-02-01"),
    ],
)
def test_what_cannot_be_derived_again_is_said_in_one_line(
    running: Installation, arguments: list[str], says: str
) -> None:
    assert_one_line(questlog(running.home, "recompute", *arguments), says)


def test_a_record_is_imported_once_and_a_wrong_line_is_named(running: Installation, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in (RECORD, {**RECORD, "userId": "nobody"})))
    first = questlog(running.home, "import-milestones", str(file))
    assert first.returncode == 1
    assert told(first) == [
        "2\tuserId\tuserId is no user that is kept: upsert them first",
        "1 milestones were imported, 0 lines were known already, 1 were refused",
    ]
    assert "some lines were refused" in first.stderr
    file.write_text(json.dumps(RECORD))
    again = questlog(running.home, "import-milestones", str(file))
    assert again.returncode == 0, again.stderr
    assert told(again) == ["0 milestones were imported, 1 lines were known already, 0 were refused"]
    journey = running.ask("{ viewer { user { journey { firstQuestDate totalXp } } } }", running.token("student", "kim"))
    assert journey == {"data": {"viewer": {"user": {"journey": {"firstQuestDate": None, "totalXp": 5}}}}}


def test_a_file_that_is_of_no_use_is_said_in_one_line(running: Installation, tmp_path: Path) -> None:
    assert_one_line(questlog(running.home, "import-milestones", str(tmp_path / "none.csv")), "No such file")
    assert_one_line(questlog(running.home, "import-milestones", str(tmp_path)), "directory")
    (tmp_path / "wrong.csv").write_text("user,kind\n")
    assert_one_line(questlog(running.home, "import-milestones", str(tmp_path / "wrong.csv")), "'user' is no column")
    without_input = ["sh", "-c", 'exec "$0" -m questlog import-milestones - <&-', sys.executable]
    refused = subprocess.run(without_input, env=environ(running.home), capture_output=True, text=True, check=False)
    assert_one_line(refused, "there is no standard input to import")


@pytest.mark.parametrize("command", ["settings", "status"])
def test_an_output_that_cannot_be_written_is_said_in_one_line(running: Installation, command: str) -> None:
    full, closed = ("/dev/full", "wb", "No space left on device"), ("/dev/null", "rb", "Bad file descriptor")
    for output, mode, says in (full, closed):
        with Path(output).open(mode) as unfit:
            told = subprocess.run(
                [sys.executable, "-m", "questlog", command],
                env=environ(running.home),
                stdout=unfit,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert (told.returncode, told.stderr) == (1, f"questlog: {says}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_gets_nothing_need_not_be_writable(running: Installation, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        refused = subprocess.run(
            [sys.executable, "-m", "questlog", "recompute", "--user", "nobody"],
            env=environ(running.home, PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (refused.returncode, refused.stderr) == (1, "questlog: there is no user 'nobody'\n")


def test_whoever_reads_no_further_is_not_told_of_it(running: Installation) -> None:
    command = ["sh", "-c", '"$0" -m questlog settings; echo $? >&2', sys.executable]
    with subprocess.Popen(
        command, env=environ(running.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as left:
        assert left.stdout
        assert left.stderr
        left.stdout.close()
        assert left.stderr.read() == "1\n"
