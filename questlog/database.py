"""The logins of an installation's database."""

import hmac
from dataclasses import dataclass

from sqlalchemy.engine import make_url

from questlog.settings import Settings, SettingsError

LONGEST_PREFIX = 50
LOGINS = ("viewer", "admin", "worker", "intake")
POOLS = {"viewer": 8, "admin": 4, "intake": 4}
"""The most connections of each login that an API process opens."""


@dataclass(frozen=True)
class Logins:
    """Each login's URL. The owner migrates and owns every table; none of the others owns any."""

    owner: str | None
    viewer: str
    admin: str
    worker: str
    intake: str

    def names(self) -> dict[str, str]:
        """The logins' user names, for migrations to grant to."""
        return {name: make_url(getattr(self, name)).username or "" for name in LOGINS}


def logins(settings: Settings) -> Logins:
    """The URLs in the settings, or where one is missing the owner's with a login that migrating makes.

    Such a login is named after the database (`questlog_viewer` of `questlog`), since logins belong to a whole cluster.
    Its password follows from the owner's, so that every process that knows the one knows the others. Raises
    SettingsError where neither is given, or the owner's has no password to derive from.
    """
    owner = str(settings.database_url) if settings.database_url else None
    return Logins(
        owner,
        *(
            str(given) if given else derived(owner, name)
            for name in LOGINS
            for given in [getattr(settings, f"{name}_database_url")]
        ),
    )


def derived(owner: str | None, name: str) -> str:
    """The URL of a login that migrating makes; raises SettingsError where there is no owner's URL to derive it from."""
    if owner is None:
        raise SettingsError(
            f"set QUESTLOG_DATABASE_URL, or QUESTLOG_{name.upper()}_DATABASE_URL beside the other logins"
        )
    url = make_url(owner)
    if not url.password:
        raise SettingsError("QUESTLOG_DATABASE_URL needs a password: those of the other logins are derived from it")
    login = f"{(url.database or 'questlog')[:LONGEST_PREFIX]}_{name}"
    password = hmac.new(str(url.password).encode(), login.encode(), "sha256").hexdigest()
    return url.set(username=login, password=password).render_as_string(hide_password=False)
