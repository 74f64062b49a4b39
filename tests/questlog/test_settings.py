"""Settings come from the environment, and what is wrong with them is said in one line."""

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from questlog.cli import app
from questlog.settings import (
    Settings,
    SettingsError,
    load,
    variable,
    with_erasure_secret,
    with_secret,
    without_password,
)

SECRET = "a secret of more than thirty-two characters"
DATABASE = "postgresql://owner:pass@db.example/questlog"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("QUESTLOG_HOME", str(tmp_path / "home"))


def test_nothing_needs_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUESTLOG_HOME")
    settings = load()
    assert settings.home == Path(".questlog")
    assert settings.environment == "development"
    assert not settings.names_database


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_DATABASE_URL", "")
    assert load().database_url is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("QUESTLOG_DATABASE_URL", "mysql://db.example/x", "begins with postgresql://"),
        ("QUESTLOG_DATABASE_URL", "postgresql://owner:p/w@db.example/x", "%-encoded"),
        ("QUESTLOG_REDIS_URL", "http://valkey.example", "begins with redis://"),
        ("QUESTLOG_JWT_SECRET", "short", "at least 32"),
        ("QUESTLOG_ENVIRONMENT", "staging", "'development' or 'production'"),
        ("QUESTLOG_ANONYMIZE_AFTER_DAYS", "soon", "valid integer"),
        ("QUESTLOG_JWT_ROLE_CLAIMS", " , ", "at least 1"),
        ("QUESTLOG_AGE_OF_CONSENT", "22", "less than or equal to 21"),
        ("QUESTLOG_DATABSE_URL", DATABASE, "is not a setting: `questlog settings` lists them all"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load()
    line = str(error.value)
    assert name in line
    assert says in line
    assert "\n" not in line
    assert value not in line.replace(name, "")


def test_secret_and_jwks_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_JWT_SECRET", SECRET)
    monkeypatch.setenv("QUESTLOG_JWKS_URL", "https://auth.example/jwks.json")
    with pytest.raises(SettingsError, match="exclude each other: unset one"):
        load()


def test_events_are_not_deleted_before_they_are_anonymised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_ANONYMIZE_AFTER_DAYS", "400")
    monkeypatch.setenv("QUESTLOG_DELETE_AFTER_DAYS", "300")
    with pytest.raises(SettingsError, match="is more than QUESTLOG_DELETE_AFTER_DAYS"):
        load()


def test_role_claims_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_JWT_ROLE_CLAIMS", "https://example.com/role, role")
    assert load().jwt_role_claims == ("https://example.com/role", "role")


def test_each_login_given_is_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for login in ("viewer", "admin", "worker"):
        monkeypatch.setenv(f"QUESTLOG_{login.upper()}_DATABASE_URL", DATABASE)
    assert not load().names_database
    monkeypatch.setenv("QUESTLOG_INTAKE_DATABASE_URL", DATABASE)
    assert load().names_database


def test_a_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        database_url=DATABASE,
        redis_url="unix://:pw@/run/valkey",
        jwt_secret=SecretStr(SECRET),
        jwt_role_claims=("a.b", "c"),
        trust_clients=True,
    )
    for name, value in settings.environ().items():
        monkeypatch.setenv(name, value)
    assert load() == settings


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    with pytest.raises(SettingsError, match="run `questlog serve`"):
        with_secret(settings)
    made = with_secret(settings, make=True).jwt_secret
    assert made is not None
    assert len(made.get_secret_value()) >= 32
    assert with_secret(settings) == with_secret(settings, make=True)
    assert stat.S_IMODE((tmp_path / "new" / "jwt-secret").stat().st_mode) == 0o600


def test_the_secret_for_erasures_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    with pytest.raises(SettingsError, match="run `questlog serve`"):
        with_erasure_secret(settings)
    made = with_erasure_secret(settings, make=True)
    assert len(made.erasure_key) >= 32
    assert with_erasure_secret(settings) == made
    assert stat.S_IMODE((tmp_path / "new" / "erasure-secret").stat().st_mode) == 0o600


def test_production_is_given_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="production needs QUESTLOG_JWT_SECRET"):
        with_secret(Settings(home=tmp_path, environment="production"), make=True)
    with pytest.raises(SettingsError, match="production needs QUESTLOG_ERASURE_SECRET"):
        with_erasure_secret(Settings(home=tmp_path, environment="production"), make=True)
    assert not list(tmp_path.iterdir())


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_JWT_SECRET", SECRET)
    monkeypatch.setenv("QUESTLOG_DATABASE_URL", DATABASE)
    shown = CliRunner().invoke(app, ["settings"]).output
    assert "QUESTLOG_DATABASE_URL=postgresql://owner:***@db.example/questlog\n" in shown
    assert "QUESTLOG_JWT_SECRET=(hidden)\n" in shown
    assert SECRET not in shown + repr(load())
    assert "pass@" not in shown + repr(load())


def test_every_setting_is_listed_with_default_and_meaning() -> None:
    shown = CliRunner().invoke(app, ["settings"]).output
    for name, setting in Settings.model_fields.items():
        assert f"{variable(name)}=" in shown
        assert setting.description
        assert setting.description in shown
    assert "QUESTLOG_JWT_ROLE_CLAIMS=app_metadata.role,role\n    default: app_metadata.role,role\n" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@valkey.example:6379/0", "redis://:***@valkey.example:6379/0"),
        ("unix://:pw@/run/valkey", "unix://:***@/run/valkey"),
        ("postgresql://owner@db.example/q?host=/run", "postgresql://owner@db.example/q?host=/run"),
        ("postgresql://owner:p@w@db.example/q", "postgresql://owner:***@db.example/q"),
        ("postgresql://db.example/q?user=o&password=pw", "postgresql://db.example/q?user=o&password=***"),
    ],
)
def test_passwords_in_urls_are_hidden(url: str, shown: str) -> None:
    assert without_password(url) == shown
