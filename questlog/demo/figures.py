"""What the platform has derived from the course, asked as an admin."""

import asyncio
from time import monotonic

from questlog.demo.api import Api, DemoError, Json
from questlog.demo.course import Course, Figures

PATIENCE_SECONDS = 90
PAUSE_SECONDS = 1

LEARNERS = """
query ($days: Int!, $after: String) {
  users(role: STUDENT, first: 100, after: $after) {
    nodes {
      userId
      eventCounts(days: $days) { category count }
      engagement(days: $days) { visitDays activeDays tasksCompleted questsCompleted }
      journey { totalXp }
    }
    pageInfo { hasNextPage endCursor }
  }
}
"""


async def derived(course: Course, admin: Api) -> Figures:
    """The sum of what stands in every learner's own figures since the course began."""
    course_learners = {learner.user_id for learner in course.learners}
    figures = Figures()
    after = None
    while True:
        answer = await admin.data(LEARNERS, days=course.days, after=after)
        page = answer["users"]
        learners = (learner for learner in page["nodes"] if learner["userId"] in course_learners)
        figures = sum(map(figures_of, learners), figures)
        if not page["pageInfo"]["hasNextPage"]:
            return figures
        after = page["pageInfo"]["endCursor"]


async def all_derived(course: Course, admin: Api) -> Figures:
    """The figures once they agree with the course's; raises DemoError where they do not within a minute and a half."""
    give_up_at = monotonic() + PATIENCE_SECONDS
    while (figures := await derived(course, admin)) != course.figures:
        if monotonic() > give_up_at:
            raise DemoError(
                f"after {PATIENCE_SECONDS} s the figures are {figures}, but the files hold {course.figures}"
            )
        await asyncio.sleep(PAUSE_SECONDS)
    return figures


def figures_of(learner: Json) -> Figures:
    """One learner's figures."""
    counts = {row["category"]: row["count"] for row in learner["eventCounts"]}
    return Figures(
        learners=1,
        page_views=counts["NAVIGATION"],
        quest_events=counts["QUEST"],
        visit_days=learner["engagement"]["visitDays"],
        active_days=learner["engagement"]["activeDays"],
        tasks_completed=learner["engagement"]["tasksCompleted"],
        quests_completed=learner["engagement"]["questsCompleted"],
        xp=learner["journey"]["totalXp"],
    )
