"""What a browser says of itself."""

import json
from pathlib import Path

import pytest

from models.user_agent import Described, DeviceType, describe
from tests.recomputation import AGENTS

# The 76 that were sent most in November 2026: top-user-agents (npm), MIT.
TOP = [
    json.loads(line) for line in Path(__file__).parents[1].joinpath("top_user_agents.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize("agent", AGENTS)
def test_what_a_person_reads_in_it_is_found(agent: str | None) -> None:
    assert describe(agent) == AGENTS[agent]


def test_the_browsers_that_are_used_most_are_told_apart() -> None:
    assert {line["ua"]: describe(line["ua"]).device_type for line in TOP} == {
        line["ua"]: line["kind"].upper() for line in TOP
    }
    assert {describe(line["ua"]).os for line in TOP} == {"Windows", "Mac OS X", "Linux", "Chrome OS", "Android", "iOS"}


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        ("Mozilla/5.0 (iPad; CPU OS 16_7 like Mac OS X) AppleWebKit/605.1.15 Version/16.6 Mobile/15E148", "TABLET"),
        ("Mozilla/5.0 (Linux; Android 13; Pixel 7) AppleWebKit/537.36 Chrome/148.0.0.0 Mobile Safari/537.36", "MOBILE"),
        ("Mozilla/5.0 (Linux; Android 9; BRAVIA 4K Smart TV) AppleWebKit/537.36 Chrome/148.0 Safari/537.36", "OTHER"),
        ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 Chrome/148.0.0.0 Safari/537.36", "DESKTOP"),
        ("Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 Chrome/94.0 Safari/537.36 WebAppManager", "OTHER"),
        ("Mozilla/5.0 (Mobile; LYF/F90M; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5", "MOBILE"),
    ],
)
def test_the_kind_of_device(agent: str, device: str) -> None:
    assert describe(agent).device_type == DeviceType(device)


@pytest.mark.parametrize("agent", ["", "x", "\N{SNOWMAN}" * 2000, "(((((", "Mozilla/5.0 " * 600])
def test_what_is_no_user_agent_tells_nothing(agent: str) -> None:
    assert describe(agent) == Described(DeviceType.OTHER, None, None)
