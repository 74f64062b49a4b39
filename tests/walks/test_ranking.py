"""Risk on a real course: what the rule says of it, and how well that ranks its learners, as the docs have it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.risk import Assessment
from questlog.demo.course import TIME_ZONE, Course
from questlog.demo.diary import diary
from tests import recomputation
from tests.bench.ranking import DAY_60, assess_course, ranking, still_there
from tests.recomputation import History
from tests.walks.test_figures import as_event

DOCS = Path(__file__).parents[2] / "docs" / "risk.md"


@pytest.fixture(scope="module")
def course() -> Course:
    return Course.read(DAY_60)


@pytest.fixture(scope="module")
def assessed(course: Course) -> dict[str, dict[int, Assessment]]:
    return assess_course(course)


def test_the_docs_have_what_the_command_measures(course: Course, assessed: dict[str, dict[int, Assessment]]) -> None:
    of_all, of_those_there = (ranking(learners, assessed) for learners in (course.learners, still_there(course)))
    measured = {name: (f"{of_all[name]:.3f}", f"{of_those_there[name]:.3f}") for name in of_all}
    rows = re.findall(r"^\| (.+) \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", DOCS.read_text(), re.MULTILINE)
    assert {name: figures for name, *figures in rows} == {name: [*figures] for name, figures in measured.items()}


def test_what_is_said_of_the_course_is_what_the_recomputation_says(
    course: Course, assessed: dict[str, dict[int, Assessment]]
) -> None:
    known_since = datetime.combine(course.first_day, datetime.min.time(), UTC) - timedelta(hours=1)
    for learner in course.learners[::12]:
        events = [as_event(sent) for sent in diary(learner, course)]
        history = History(learner.user_id, TIME_ZONE, known_since, events)
        for days, said in assessed[learner.number].items():
            expected = recomputation.risk(history, said.assessed_at, days)
            assert said.score == pytest.approx(expected["score"], abs=1e-12)
            assert [factor.value for factor in said.factors] == [
                one["value"] and pytest.approx(one["value"], abs=1e-12) for one in expected["factors"]
            ]
