"""Which errors are the same: what changes from one to the next tells none apart, and all else does."""

from typing import Any

import pytest

from models.error import culprit, error_group, frames

CHROME = """TypeError: Cannot read properties of undefined (reading 'title')
    at QuestCard (https://quests.example/assets/index-4f2a9c1e.js:{}:{})
    at renderWithHooks (http://localhost:3000/vendor.js:{}:{})
    at async Promise.all (index 0)
    at https://quests.example/assets/index-4f2a9c1e.js:1:9"""
FIREFOX = """QuestCard@https://quests.example/assets/index-4f2a9c1e.js:{}:{}
async*renderWithHooks/<@http://localhost:3000/vendor.js:{}:{}
@https://quests.example/assets/index-4f2a9c1e.js:1:9
run@https://quests.example/app.js line 3 > eval:7:1
"""
SAFARI = """QuestCard@https://quests.example/assets/index-4f2a9c1e.js:{}:{}
https://quests.example/vendor.js:{}:{}
[native code]
global code@https://quests.example/assets/index-4f2a9c1e.js:1:9"""
STACKS = {"Chrome": CHROME, "Firefox": FIREFOX, "Safari": SAFARI}


def javascript(**payload: Any) -> dict[str, Any]:
    return {"message": "no", **payload}


@pytest.mark.parametrize("browser", STACKS)
def test_lines_and_columns_tell_no_stacks_apart(browser: str) -> None:
    one, other = (javascript(stack=STACKS[browser].format(*places)) for places in ((1, 2, 3, 4), (10, 20, 300, 4000)))
    assert error_group("javascript_error", one) == error_group("javascript_error", other)


@pytest.mark.parametrize("browser", STACKS)
def test_frames_from_the_fourth_on_and_messages_tell_no_stacks_apart(browser: str) -> None:
    stack = STACKS[browser].format(1, 2, 3, 4)
    longer = f"{stack.rstrip()}\n" + (
        "    at last (https://x.example/a.js:1:1)" if browser == "Chrome" else "last@x:1:1"
    )
    assert error_group("javascript_error", javascript(stack=stack)) == error_group(
        "javascript_error", {"message": "another", "stack": longer}
    )


@pytest.mark.parametrize("browser", STACKS)
def test_top_frames_and_the_component_tell_stacks_apart(browser: str) -> None:
    stack = STACKS[browser].format(1, 2, 3, 4)
    payloads = [
        javascript(stack=stack),
        javascript(stack=stack, componentName="QuestList"),
        javascript(stack=stack.replace("QuestCard", "BadgeCard")),
        javascript(stack=stack.replace("vendor", "library")),
    ]
    groups = {error_group("javascript_error", payload) for payload in payloads}
    assert len(groups | {error_group("network_error", payloads[0])}) == 5


@pytest.mark.parametrize(
    ("browser", "expected"),
    [
        (
            "Chrome",
            [
                "at QuestCard (https://quests.example/assets/index-4f2a9c1e.js)",
                "at renderWithHooks (http://localhost:3000/vendor.js)",
                "at async Promise.all (index 0)",
                "at https://quests.example/assets/index-4f2a9c1e.js",
            ],
        ),
        (
            "Firefox",
            [
                "QuestCard@https://quests.example/assets/index-4f2a9c1e.js",
                "async*renderWithHooks/<@http://localhost:3000/vendor.js",
                "@https://quests.example/assets/index-4f2a9c1e.js",
                "run@https://quests.example/app.js  > eval",
            ],
        ),
        (
            "Safari",
            [
                "QuestCard@https://quests.example/assets/index-4f2a9c1e.js",
                "https://quests.example/vendor.js",
                "global code@https://quests.example/assets/index-4f2a9c1e.js",
            ],
        ),
    ],
)
def test_frames_of_each_browser(browser: str, expected: list[str]) -> None:
    assert frames(STACKS[browser].format(1, 2, 3, 4)) == expected


def test_what_is_no_stack_has_no_frames() -> None:
    assert frames(None) == frames("") == frames("TypeError: it failed at noon") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Request 17 failed", "Request 4711 failed"),
        ("Waited 0.25 s", "Waited 12 s"),
        (
            "No quest 0b7f3f2e-5f0a-4c86-9c31-2a3f4dc1f3a1",
            "No quest 9F1E8D7C-0000-4c86-9c31-2A3F4DC1F3A1",
        ),
        ("At 0xdeadbeef", "At 0x7ffe"),
        ("Commit a94a8fe5ccb19ba61c4c0873d391e987982fbbd3", "Commit deadbeefcafe"),
        ('Unknown key "title"', "Unknown key \"a 'name'\""),
        ("Can't read 'title' of undefined", "Can't read 'name' of undefined"),
        ("No `title`", "No `name`"),
    ],
)
@pytest.mark.parametrize("field", ["message", "endpoint"])
def test_what_changes_in_a_text_tells_no_errors_apart(one: str, other: str, field: str) -> None:
    payloads = ({"message": "no", "endpoint": "/api", "statusCode": 500, field: text} for text in (one, other))
    assert len({error_group("api_error", payload) for payload in payloads}) == 1


def test_all_else_tells_errors_without_a_stack_apart() -> None:
    base = {"message": "Request 17 failed", "endpoint": "/api/quests/17", "statusCode": 500}
    payloads: list[dict[str, Any]] = [
        base,
        {**base, "message": "Request 17 was refused"},
        {**base, "endpoint": "/api/badges/17"},
        {**base, "statusCode": 503},
        {"message": base["message"], "endpoint": base["endpoint"]},
        {"message": base["message"]},
    ]
    groups = {error_group("api_error", payload) for payload in payloads}
    assert len(groups | {error_group("network_error", payloads[-1])}) == len(payloads) + 1
    assert error_group("api_error", {**base, "method": "PUT", "release": "2"}) == error_group("api_error", base)


def test_a_fingerprint_alone_makes_the_group() -> None:
    one = error_group("javascript_error", javascript(stack=CHROME, fingerprint="quest card"))
    other = error_group("api_error", {"message": "?", "endpoint": "/", "statusCode": 1, "fingerprint": "quest card"})
    assert one == other
    assert one != error_group("javascript_error", javascript(stack=CHROME, fingerprint="quest cards"))
    assert error_group("javascript_error", javascript(fingerprint="")) == error_group("javascript_error", javascript())


def test_groups_stay_what_they_are() -> None:
    """Errors that are kept already have theirs: to change how they are found takes a new GROUPING."""
    known = {
        "729f935d": javascript(fingerprint="quest card"),
        "fbe89ae1": javascript(stack=CHROME.format(1, 2, 3, 4), componentName="QuestList"),
        "e183d1ea": {"message": "Request 17 failed"},
    }
    assert {str(error_group("javascript_error", payload))[:8]: payload for payload in known.values()} == known


def test_to_blame_is_the_component_else_the_top_frame_else_the_endpoint() -> None:
    stack = CHROME.format(1, 2, 3, 4)
    assert culprit("QuestList", stack, "/api") == "QuestList"
    assert culprit(None, stack, "/api") == "QuestCard (https://quests.example/assets/index-4f2a9c1e.js)"
    assert culprit(None, None, "/api") == "/api"
    assert culprit(None, "no frames", None) is None
