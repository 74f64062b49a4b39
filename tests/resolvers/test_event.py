"""What is kept of a question about events."""

from datetime import UTC, datetime

from models.taxonomy import Category
from resolvers.event import EventFilter
from schema.user import event_filter


def test_a_statement_that_is_kept_holds_nothing_of_what_was_asked_for() -> None:
    """Who asks may name 25,000 types, and a hundred statements are kept."""
    now = datetime.now(UTC)
    few = EventFilter(frozenset({"QUEST"}), ("quest_started",), now, now)
    many = EventFilter(frozenset({"QUEST"}), tuple(f"type_{number}" for number in range(25_000)), now, now)
    assert few.parameters() != many.parameters()
    assert few.conditions() is many.conditions()
    assert EventFilter(types=("quest_started",)).conditions() is not few.conditions()


def test_a_category_that_is_named_again_and_again_is_named_once() -> None:
    assert event_filter(None, None, None, [Category.QUEST] * 25_000) == EventFilter(frozenset({Category.QUEST}))
