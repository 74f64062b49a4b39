"""What would break clients of the last release is told in the changelog, or does not pass."""

import re
from pathlib import Path

import pytest
from graphql import build_schema, find_breaking_changes

REPOSITORY = Path(__file__).parents[2]
RELEASED = (REPOSITORY / "schema" / "released.graphql").read_text()
NOW = (REPOSITORY / "schema" / "schema.graphql").read_text()
BARE = re.sub(r'\n *"""[^"]+"""', "", NOW)
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()


def untold(released: str, now: str, changelog: str) -> list[str]:
    """The breaking changes that do not stand, letter by letter, in the changelog's part on what is to be released."""
    _, _, rest = changelog.partition("\n## Unreleased\n")
    unreleased, _, _ = rest.partition("\n## ")
    changes = find_breaking_changes(build_schema(released), build_schema(now))
    return [change.description for change in changes if f"- {change.description}\n" not in unreleased]


def test_every_breaking_change_since_the_last_release_is_told() -> None:
    assert not untold(RELEASED, NOW, CHANGELOG)


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("  xpByPillar: [PillarXp!]!\n", "", "Field LearningJourney.xpByPillar was removed."),
        (
            "  kind: MilestoneKind!\n",
            "  kind: String!\n",
            "Field Milestone.kind changed type from MilestoneKind! to String!.",
        ),
        ("  GREEN\n", "", "Enum value Rhythm.GREEN was removed."),
        ("  birthDate: Date\n", "  birthDate: Date!\n", "Field UserInput.birthDate changed type from Date to Date!."),
        ("  path: String!\n", "  path: String!\n  host: String!\n", "A required field PageInput.host was added."),
    ],
)
def test_a_breaking_change_is_found_unless_the_changelog_tells_it(before: str, after: str, change: str) -> None:
    changed = BARE.replace(before, after)
    assert changed != BARE
    assert untold(BARE, changed, CHANGELOG) == [change]
    assert untold(BARE, changed, f"# Changelog\n\n## Unreleased\n\n- {change}\n\n## 0.1.0\n") == []
    assert untold(BARE, changed, f"# Changelog\n\n## Unreleased\n\n## 0.1.0\n\n- {change}\n") == [change]


def test_more_than_there_was_breaks_nothing() -> None:
    assert untold(NOW, f"{NOW}\nextend type Query {{ more(of: Int): Int }}", CHANGELOG) == []
