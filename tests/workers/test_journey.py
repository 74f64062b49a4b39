"""Importing a learner's own record: what is good is kept once, what is not is named with its line and reason."""

import csv
import json
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO
from itertools import count
from typing import Any, BinaryIO
from uuid import UUID, uuid4

import pytest

from tests.histories import as_tracked
from tests.workers.storing import DAYS, NOW, Storing, visit
from workers.journey import COLUMNS, LINES_AT_ONCE, FileError, Refused, import_milestones

NUMBERS = count()
DONE = {"kind": "QUEST_COMPLETED", "occurredAt": "2019-03-31T01:30:00.123456+02:00", "questId": "q", "xp": 5}
EARNED = {"kind": "BADGE_EARNED", "occurredAt": "2020-01-01T00:00:00Z", "badgeId": "b"}


async def learner(storing: Storing, zone: str = "UTC") -> tuple[str, UUID]:
    name = f"importer {next(NUMBERS)}"
    return name, await storing.know(name, zone)


async def bring(
    storing: Storing, file: bytes | BinaryIO, as_json: bool | None = None
) -> tuple[int, int, list[Refused]]:
    """Import a file: how many lines were new, how many known, and those that were refused."""
    imported, known = 0, 0
    refused: list[Refused] = []
    source = BytesIO(file) if isinstance(file, bytes) else file
    steps = import_milestones(storing.engine, source, as_json=as_json, now=NOW, anonymize_after_days=DAYS)
    async for step in steps:
        imported, known, refused = imported + step.imported, known + step.known, refused + step.refused
    return imported, known, refused


def json_lines(*records: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in records)


def as_csv(*records: dict[str, Any]) -> bytes:
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


async def milestones(storing: Storing, key: UUID, columns: str) -> list[tuple[Any, ...]]:
    return await storing.rows(
        f"SELECT {columns} FROM learning_journey_events WHERE subject_key = :key ORDER BY occurred_at, event_id",
        key=key,
    )


@pytest.mark.parametrize("write", [json_lines, as_csv])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_a_line_becomes_a_milestone_of_the_learners_day(storing: Storing, write: Any, mark: bytes) -> None:
    name, key = await learner(storing, "America/New_York")
    told = {"userId": name, **DONE, "title": 'Größe, "✓"\nof ada@example.org', "pillar": "art"}
    assert await bring(storing, mark + write(told, {"userId": name, **EARNED})) == (2, 0, [])
    columns = "day::text, occurred_at, kind, quest_id, task_id, badge_id, title, xp, pillar, imported"
    done = datetime(2019, 3, 30, 23, 30, 0, 123000, UTC)
    assert await milestones(storing, key, columns) == [
        ("2019-03-30", done, "QUEST_COMPLETED", "q", None, None, 'Größe, "✓"\nof [email]', 5, "art", True),
        ("2019-12-31", datetime(2020, 1, 1, tzinfo=UTC), "BADGE_EARNED", None, None, "b", None, 0, None, True),
    ]
    # The same told in the other way is the same.
    other = as_csv if write is json_lines else json_lines
    assert await bring(storing, other({"userId": name, **EARNED}, told)) == (0, 2, [])


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ({**DONE, "userId": "nobody"}, "userId", "no user that is kept"),
        ({**DONE, "kind": "QUEST_VIEWED"}, "kind", "Invalid enum value"),
        ({**EARNED, "occurredAt": "2020-01-01T00:00:00"}, "occurredAt", "timezone"),
        ({**EARNED, "occurredAt": "yesterday"}, "occurredAt", "RFC3339"),
        pytest.param(
            {**EARNED, "occurredAt": (NOW + timedelta(minutes=6)).isoformat()}, "occurredAt", "in the future", id="soon"
        ),
        ({**EARNED, "occurredAt": "9999-12-31T23:59:59-14:00"}, "occurredAt", "in the future"),
        ({**EARNED, "occurredAt": "0001-01-01T00:00:00+14:00"}, "occurredAt", "before 1900"),
        ({**EARNED, "badgeId": None}, "badgeId", "missing required"),
        ({**EARNED, "questId": "q"}, "questId", "unknown field"),
        ({**EARNED, "badgeId": "b" * 201}, "badgeId", "length <= 200"),
        ({**DONE, "xp": -1}, "xp", ">= 0"),
        ({**DONE, "xp": 1_000_001}, "xp", "<= 1000000"),
        ({**DONE, "xp": "many"}, "xp", "Expected `int"),
        ({**DONE, "kind": "QUEST_STARTED"}, "xp", "unknown field"),
        ({**DONE, "pillar": "p" * 201}, "pillar", "length <= 200"),
        ({**DONE, "eventId": "x"}, "eventId", "UUID"),
        ({**DONE, "title": "a\x00b"}, "title", "cannot be stored"),
        ({**DONE, "title": "t" * 9000}, "", "more than 8192 bytes"),
        ({**DONE, "title": "t" * 500_000}, "", ""),
    ],
    ids=str,
)
@pytest.mark.parametrize("write", [json_lines, as_csv])
async def test_a_line_that_is_wrong_is_named_and_the_others_are_kept(
    storing: Storing, line: dict[str, Any], field: str, reason: str, write: Any
) -> None:
    name, _ = await learner(storing)
    lines = write({"userId": name, **DONE}, {"userId": name, **line}, {"userId": name, **EARNED})
    imported, known, refused = await bring(storing, lines)
    assert (imported, known) == (2, 0)
    assert [(each.line, each.field) for each in refused] == [(2 if write is json_lines else 3, field)]
    assert reason in refused[0].reason


async def test_lines_that_are_no_lines(storing: Storing) -> None:
    name, _ = await learner(storing)
    good = json_lines({"userId": name, **DONE})
    lines = [good, b"", b"[]", b"{", b"\xff", b"[" * 9000, b'{"n": 1e999}', json.dumps({"pilar": 1}).encode(), good]
    imported, known, refused = await bring(storing, b"\r\n".join(lines))
    assert (imported, known) == (1, 1)
    assert [line for line, _, _ in refused] == [3, 4, 5, 6, 7, 8]
    header = ",".join(COLUMNS[:4]).encode()
    start = f"{name},QUEST_STARTED,2020-01-01T00:00:00Z,".encode()
    cells = [
        header,
        start + b"q",
        b"",
        start + b"q,more",
        start + b"q\xff",
        start + b'"a\n\nb"',
        start + b'"lost\nq',
        start,
    ]
    imported, known, refused = await bring(storing, b"\n".join(cells))
    assert (imported, known) == (2, 0)
    assert [(line, field) for line, field, _ in refused] == [(4, ""), (5, "questId"), (9, "")]


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "userId|kind|occurredAt"),
        (b"userId,kind\n", "occurredAt is not among them"),
        (b"userId,kind,occurredAt,pilar\n", "'pilar' is no column"),
        (b"userId,kind,occurredAt,kind\n", "twice"),
        (b'"' + b"x" * 200_000 + b'"\n', "no CSV|no column"),
    ],
    ids=str,
)
async def test_a_file_without_the_columns_is_refused_as_a_whole(storing: Storing, file: bytes, says: str) -> None:
    with pytest.raises(FileError, match=says):
        await bring(storing, file)


async def test_the_first_of_one_identity_stays(storing: Storing) -> None:
    name, key = await learner(storing)
    record = {"userId": name, **DONE, "eventId": str(uuid4())}
    assert await bring(storing, json_lines(record, {**record, "xp": 9})) == (1, 1, [])
    assert await bring(storing, json_lines({**record, "xp": 7})) == (0, 1, [])
    assert await milestones(storing, key, "xp") == [(5,)]
    assert await bring(storing, json_lines({**record, "eventId": str(uuid4())})) == (1, 0, [])


@pytest.mark.parametrize("tracked_first", [True, False])
async def test_an_imported_milestone_stands_for_an_event_of_the_same_identity(
    storing: Storing, tracked_first: bool
) -> None:
    name, key = await learner(storing)
    event = visit(NOW - timedelta(days=1), kind="quest_completed", questId="q", xp=7)
    told = {"userId": name, **DONE, "eventId": str(event.event_id), "occurredAt": event.occurred_at.isoformat()}
    if tracked_first:
        await storing.store([as_tracked(event, name)])
        await storing.derive()
        assert await milestones(storing, key, "xp, imported") == [(7, False)]
    assert await bring(storing, json_lines(told)) == (1, 0, [])
    if not tracked_first:
        await storing.store([as_tracked(event, name)])
    await storing.derive()
    assert await milestones(storing, key, "xp, imported") == [(5, True)]
    assert await bring(storing, json_lines(told)) == (0, 1, [])


async def test_deriving_leaves_them_alone(storing: Storing) -> None:
    name, key = await learner(storing)
    yesterday = {**EARNED, "occurredAt": (NOW - timedelta(days=1)).isoformat()}
    await bring(storing, json_lines({"userId": name, **EARNED}, {"userId": name, **yesterday}))
    before = await milestones(storing, key, "*, xmin::text, ctid")
    await storing.store([as_tracked(visit(NOW - timedelta(days=1)), name)])
    await storing.derive()
    assert await milestones(storing, key, "*, xmin::text, ctid") == before
    assert await storing.rows("SELECT active FROM daily_activity WHERE subject_key = :key", key=key) == [(False,)]
    assert await storing.rows(
        "SELECT first_seen_at = :at FROM users WHERE subject_key = :key", key=key, at=NOW - timedelta(days=1)
    ) == [(True,)]


class Counting(BytesIO):
    """A file that counts what was read of it, and breaks off where it is told to."""

    def __init__(self, content: bytes, breaks_after: int | None = None) -> None:
        super().__init__(content)
        self.lines, self.breaks_after = 0, breaks_after

    def readline(self, size: int | None = -1, /) -> bytes:
        self.lines += 1
        if self.lines == self.breaks_after:
            raise OSError("the disk is gone")
        return super().readline(size)


async def test_it_reads_no_more_than_it_keeps_at_once(storing: Storing) -> None:
    name, _ = await learner(storing)
    file = Counting(json_lines(*({"userId": name, **DONE, "questId": str(n)} for n in range(3 * LINES_AT_ONCE))))
    steps = import_milestones(storing.engine, file, as_json=None, now=NOW, anonymize_after_days=DAYS)
    assert (await anext(steps)).imported == LINES_AT_ONCE
    assert file.lines == LINES_AT_ONCE
    await steps.aclose()


async def test_broken_off_it_ends_right_when_it_is_run_again(storing: Storing) -> None:
    name, key = await learner(storing)
    content = json_lines(*({"userId": name, **DONE, "questId": str(n)} for n in range(3 * LINES_AT_ONCE)))
    with pytest.raises(FileError, match="cannot be read: the disk is gone"):
        await bring(storing, Counting(content, breaks_after=2 * LINES_AT_ONCE + 5))
    assert await milestones(storing, key, "1") == [(1,)] * 2 * LINES_AT_ONCE
    assert await bring(storing, content) == (LINES_AT_ONCE, 2 * LINES_AT_ONCE, [])


async def test_a_record_of_a_learner_who_lacks_a_consent_is_refused(storing: Storing) -> None:
    name, key = await learner(storing)
    await storing.rows("UPDATE users SET birth_date = current_date - 3000 WHERE subject_key = :key", key=key)
    line = json_lines(DONE | {"userId": name})
    refused = [Refused(1, "userId", "userId needs a consent that is not recorded")]
    assert await bring(storing, line) == (0, 0, refused)
    given = "INSERT INTO consents VALUES (:key, gen_random_uuid(), 'SCHOOL', NULL, NULL, now(), '1', NULL)"
    await storing.rows(given, key=key)
    assert await bring(storing, line) == (1, 0, [])
