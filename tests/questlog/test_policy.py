"""What is published is what the settings say."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.base import Base
from questlog.cli import app
from questlog.policy import KEPT, policy
from questlog.settings import Settings, variable

PUBLISHED = Path(__file__).parents[2] / "docs" / "privacy.md"


def test_the_published_policy_is_that_of_the_settings_without_any_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    assert PUBLISHED.read_text() == policy(Settings())


def test_it_follows_the_settings_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_ANONYMIZE_AFTER_DAYS", "40")
    monkeypatch.setenv("QUESTLOG_DELETE_AFTER_DAYS", "400")
    told = CliRunner().invoke(app, ["policy"]).stdout
    assert "32 to 40 days" in told
    assert "up to 400 days" in told


def test_every_table_has_its_place_in_it() -> None:
    named = [table for each in KEPT for table in each.tables]
    assert sorted(named) == sorted(Base.metadata.tables)
