"""Makes the demo's course out of OULAD's Parquet files: `python -m tests.make_course FOLDER`."""

import csv
import gzip
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COURSE = Path(__file__).parents[1] / "questlog" / "demo" / "oulad"
FIRST_DAY, LAST_DAY = -20, 60


def main(oulad: Path) -> None:
    """Write the learners, visits and submissions of AAA 2013J, both days of the window included."""
    sites = {site["id_site"]: site["activity_type"] for site in presentation(oulad, "vle").to_pylist()}
    kinds = {task["id_assessment"]: task["assessment_type"] for task in presentation(oulad, "assessments").to_pylist()}
    learners = presentation(oulad, "studentInfo").sort_by("id_student").to_pylist()
    registrations = presentation(oulad, "studentRegistration").to_pylist()
    left = {row["id_student"]: row["date_unregistration"] for row in registrations}
    visits = within(presentation(oulad, "studentVle"), "date").to_pylist()
    submissions = within(pq.read_table(oulad / "studentAssessment.parquet"), "date_submitted").to_pylist()

    write(
        "learners.csv",
        ["learner", "result", "left"],
        ([row["id_student"], row["final_result"], left[row["id_student"]]] for row in learners),
    )
    write(
        "visits.csv.gz",
        ["learner", "day", "activity", "site"],
        ([row["id_student"], row["date"], sites[row["id_site"]], row["id_site"]] for row in visits),
    )
    write(
        "submissions.csv",
        ["learner", "day", "kind", "assessment", "score"],
        (
            [row["id_student"], row["date_submitted"], kinds[row["id_assessment"]], row["id_assessment"], row["score"]]
            for row in submissions
            if row["id_assessment"] in kinds
        ),
    )


def presentation(oulad: Path, name: str) -> pa.Table:
    """One table's rows of the course."""
    table = pq.read_table(oulad / f"{name}.parquet")
    return table.filter((pc.field("code_module") == "AAA") & (pc.field("code_presentation") == "2013J"))


def within(table: pa.Table, day: str) -> pa.Table:
    """The window's rows, learner by learner and day by day."""
    rows = table.filter((pc.field(day) >= FIRST_DAY) & (pc.field(day) <= LAST_DAY))
    return rows.sort_by([("id_student", "ascending"), (day, "ascending")])


def write(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, the same bytes for the same rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    (COURSE / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
