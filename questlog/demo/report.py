"""What the demo prints."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from models.viewer import Role
from questlog.demo.api import connect
from questlog.demo.course import Course, Figures
from questlog.settings import Settings
from questlog.signin import sign_token

INTRODUCTION = """
A real course: AAA 2013J of the Open University Learning Analytics Dataset (Kuzilek,
Hlosta, Zdrahal 2017, Scientific Data 4:170171, CC BY 4.0), as if from {first_day} to {last_day}.
Learners, visits, submissions and scores are real. The dataset knows days but no hours:
these are made up from a fixed seed, as are the browsers and the parents. A submission is
a quest, marked the same evening: its score is the XP, its kind the pillar.
"""
QUESTION = """\
{{
  user(userId: "{child}") {{
    userId
    engagement(days: 30) {{ activeDays visitDays sessions medianSessionMinutes questsCompleted }}
    journey {{
      totalXp
      favoritePillar
      rhythm
      recentCompletions {{ questTitle xp pillar completedAt }}
    }}
  }}
}}"""


class Rate(ProgressColumn):
    """Events a second so far."""

    def render(self, task: Task) -> Text:
        """Nothing until there is something to divide by."""
        rate = task.completed / task.elapsed if task.elapsed else 0
        return Text(f"{rate:,.0f} events/s")


def introduce(course: Course, console: Console) -> None:
    """Say what is real and what is not."""
    console.print(INTRODUCTION.format(first_day=course.first_day, last_day=course.last_day))


@contextmanager
def progress(course: Course, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar, moved on by calling with a number of events; at the end, how many were sent and kept."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("Sending events", total=course.figures.events)
        yield lambda events: bar.advance(task, events)
        kept = bar.tasks[task].completed
    console.print(f"{course.figures.events:,} events were sent, and {kept:,.0f} kept.")


def compare(held: Figures, derived: Figures, console: Console) -> None:
    """The figures of the course's files beside those that the platform derived."""
    table = Table(title=f"{derived.events:,} events in the learners' figures", title_justify="left")
    table.add_column("")
    for heading in ("in the course's files", "derived, through GraphQL"):
        table.add_column(heading, justify="right")
    theirs = asdict(derived)
    for name, count in asdict(held).items():
        table.add_row(name.replace("_", " "), f"{count:,}", f"{theirs[name]:,}")
    console.print(table)
    console.print("They agree.\n" if held == derived else "They differ: the platform has been used since.\n")


async def show_family(course: Course, url: str, settings: Settings, console: Console) -> None:
    """A parent's question with its answer, a stranger's answer to the same, tokens, and the address."""
    (parent, (child, _)), (stranger, _), *_ = course.families.items()
    question = QUESTION.format(child=child.user_id)
    tokens = {
        user_id: sign_token(settings, user_id=user_id, role=role)
        for user_id, role in [
            (parent, Role.PARENT),
            (stranger, Role.PARENT),
            (child.user_id, Role.STUDENT),
            ("demo-admin", Role.ADMIN),
        ]
    }
    console.print(f"{parent} asks about a child of theirs:\n{question}")
    await show_answer(question, url, tokens[parent], console)
    console.print(f"\n{stranger}, a stranger to that child, asks the same:")
    await show_answer(question, url, tokens[stranger], console)
    console.print("\nTokens for 24 hours, as Authorization: Bearer …")
    for user_id, token in tokens.items():
        console.print(f"{user_id}\n{token}")
    console.print(f"\nServing {url} until Ctrl-C.")


async def show_answer(question: str, url: str, token: str, console: Console) -> None:
    """The question's answer as it comes, but laid out for reading."""
    async with connect(url, token) as api:
        console.print_json(json.dumps(await api.answer(question)))
