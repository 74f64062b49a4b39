"""The event types are those of the agreed taxonomy, in every flag, field, range and mark."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.taxonomy import (
    CLEARED,
    EVENT_TYPES,
    PERSON,
    SERVICE_ONLY,
    Category,
    CustomEvent,
    EventType,
    SafetySeverity,
    event_type,
    field_extras,
    marked,
)
from resolvers.tracking import MOST_BYTES

TAXONOMY: dict[str, Any] = json.loads((Path(__file__).parents[1] / "taxonomy.json").read_text())
EVENTS: dict[str, dict[str, Any]] = {event["type"]: event for event in TAXONOMY["events"]}
INPUTS: dict[str, list[dict[str, Any]]] = TAXONOMY["inputs"]
GOOD = {"ID": "x", "String": "x", "Int": 1, "BigInt": 1, "Float": 1.5, "JSON": {}, "SafetySeverity": "LOW"}
RANGES = [
    (name, field["name"], int(found[1]), int(found[2]))
    for name, event in EVENTS.items()
    for field in INPUTS[event["input"]]
    if (found := re.search(r"\b(\d+) to (\d+)$", field.get("note", "")))
]


def payload_of(name: str, /, **fields: Any) -> dict[str, Any]:
    """A good payload with all its fields, some of them as given."""
    of_type = INPUTS[EVENTS[name]["input"]]
    return {field["name"]: GOOD[field["type"].rstrip("!")] for field in of_type} | fields


def test_the_types_are_those_of_the_taxonomy() -> None:
    assert EVENT_TYPES.keys() == EVENTS.keys()
    assert len(EVENTS) == 29


@pytest.mark.parametrize("name", EVENTS)
def test_a_type_has_the_flags_of_the_taxonomy(name: str) -> None:
    expected, kind = EVENTS[name], EVENT_TYPES[name]
    assert kind.category.value.lower() == expected["category"]
    assert kind.payload_name() + "Input" == expected["input"]
    assert kind.interactive is expected["interactive"]
    assert kind.learning is expected["learning"]
    assert kind.passive is expected["passive"]
    assert kind.opens_session is expected.get("opensSession", True)
    assert kind.service_only is expected.get("serviceOnly", False)
    assert (kind.milestone and kind.milestone.value) == expected.get("milestone")
    assert kind.ends_session is (name in {"logout", "session_expired"})
    assert kind.needs_page is (name == "page_view")


@pytest.mark.parametrize("name", EVENTS)
def test_a_payload_has_the_fields_of_the_taxonomy(name: str) -> None:
    expected, kind = INPUTS[EVENTS[name]["input"]], EVENT_TYPES[name]
    fields = msgspec.structs.fields(kind)
    assert {field.encode_name: field.required for field in fields} == {
        field["name"]: field["type"].endswith("!") for field in expected
    }
    msgspec.convert(payload_of(name), kind)
    for field in expected:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(payload_of(name, **{field["name"]: [1]}), kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(payload_of(name, somethingElse=1), kind)


@pytest.mark.parametrize("name", EVENTS)
def test_fields_carry_the_marks_of_the_taxonomy(name: str) -> None:
    kind = EVENT_TYPES[name]
    for mark, flag in ((SERVICE_ONLY, "serviceOnly"), (PERSON, "person"), (CLEARED, "clearedAtAnonymisation")):
        assert marked(kind, mark) == {field["name"] for field in INPUTS[EVENTS[name]["input"]] if field.get(flag)}


@pytest.mark.parametrize(("name", "field", "lowest", "highest"), RANGES)
def test_a_range_holds_both_its_ends_and_nothing_beyond(name: str, field: str, lowest: int, highest: int) -> None:
    kind = EVENT_TYPES[name]
    for within in (lowest, highest):
        assert msgspec.to_builtins(msgspec.convert(payload_of(name, **{field: within}), kind))[field] == within
    for beyond in (lowest - 1, highest + 1):
        with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
            msgspec.convert(payload_of(name, **{field: beyond}), kind)


def test_the_taxonomy_notes_all_its_ranges() -> None:
    assert {(EVENTS[name]["input"], field) for name, field, _, _ in RANGES} == {
        ("PageViewInput", "loadTimeMs"),
        ("PageExitInput", "visibleSeconds"),
        ("QuestCompletedInput", "xp"),
        ("TaskCompletedInput", "xp"),
        ("BadgeEarnedInput", "xp"),
    }


def test_long_texts_are_kept_to_what_the_taxonomy_says() -> None:
    kept = {
        (event["input"], field["name"]): int(found[1])
        for event in EVENTS.values()
        for field in INPUTS[event["input"]]
        if (found := re.search(r"kept to (\d+) characters", field.get("note", "")))
    }
    assert kept == {("JavascriptErrorInput", "message"): 2000, ("JavascriptErrorInput", "stack"): 4000}
    extras = {name: field_extras(EVENT_TYPES["javascript_error"])[name]["keep"] for name in ("message", "stack")}
    assert extras == {"message": 2000, "stack": 4000}


def test_severities_sizes_and_the_custom_category_are_those_of_the_taxonomy() -> None:
    (severity,) = (field for field in INPUTS["TutorSafetyFlagInput"] if field["name"] == "severity")
    assert [each.value for each in SafetySeverity] == severity["note"].split()
    assert TAXONOMY["maxEventBytes"] == MOST_BYTES
    assert CustomEvent.category.value.lower() == TAXONOMY["customCategory"]
    assert {category.value.lower() for category in Category} == {event["category"] for event in EVENTS.values()}


@pytest.mark.parametrize("name", ["a", "a" * 63, "essay_2_handed_in"])
def test_a_custom_event_may_have_this_name(name: str) -> None:
    assert msgspec.convert({"name": name}, CustomEvent).name == name
    assert event_type(name) is CustomEvent


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "_a", "a" * 64, "a-b", "a b", "a\n", "\na", "ä", "a\u0661", "a.b", "a\x00", "é\n"]
)
def test_a_custom_event_may_not_have_this_name(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.name"):
        msgspec.convert({"name": name}, CustomEvent)


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_a_stored_name_leads_back_to_its_type(kind: type[EventType]) -> None:
    assert event_type(kind.type_name()) is kind
