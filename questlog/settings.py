"""Every setting of an installation, read from environment variables that begin with QUESTLOG_."""

import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.horizon import LEAST_DAYS
from models.permission import USUAL, ConsentRule
from questlog import private

PREFIX = "QUESTLOG_"
LOGINS = ("viewer", "admin", "worker", "intake")


class SettingsError(ValueError):
    """A setting is missing or wrong; the message is one line that says which, and what to do."""


def _begins_with(*schemes: str) -> AfterValidator:
    def check(url: str) -> str:
        if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"a URL that begins with {schemes[0]}:// is needed")
        try:
            urlsplit(url).port  # noqa: B018 - reading it is what raises
        except ValueError:
            raise ValueError("the URL cannot be read; is a special character in its password not %-encoded?") from None
        return url

    return AfterValidator(check)


def _is_origin(origin: str) -> str:
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or "*" in origin:
        raise ValueError(f"{origin} is no origin: scheme and host are needed, such as https://learn.example.org")
    return origin


def _is_network(address: str) -> str:
    try:
        ipaddress.ip_network(address)
    except ValueError:
        raise ValueError(f"{address} is neither an address nor a network, such as 10.0.0.1 or 10.0.0.0/8") from None
    return address


Origin = Annotated[str, AfterValidator(_is_origin)]
Network = Annotated[str, AfterValidator(_is_network)]
DatabaseUrl = Annotated[str, _begins_with("postgresql", "postgres")]
RedisUrl = Annotated[str, _begins_with("redis", "rediss", "unix")]


class Settings(BaseSettings):
    """One installation serves one platform; without any setting it runs on its own embedded servers."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    home: Path = Field(Path(".questlog"), description="the embedded servers' data, and the secret that serve makes")
    database_url: DatabaseUrl | None = Field(
        None,
        repr=False,
        description="PostgreSQL by its owner's login, who migrates and makes the other logins; none: embedded",
    )
    viewer_database_url: DatabaseUrl | None = Field(
        None, repr=False, description="login that reads for learners and parents; none: made by the owner"
    )
    admin_database_url: DatabaseUrl | None = Field(
        None, repr=False, description="login that reads for admins; none: made by the owner"
    )
    worker_database_url: DatabaseUrl | None = Field(
        None, repr=False, description="login that stores and derives; none: made by the owner"
    )
    intake_database_url: DatabaseUrl | None = Field(
        None,
        repr=False,
        description="login that writes users and judges events in the request; none: made by the owner",
    )
    redis_url: RedisUrl | None = Field(None, repr=False, description="Valkey or Redis for the queue; none: embedded")
    queue_bytes: int = Field(
        2**30, ge=2**24, description="memory of Valkey beyond which events go to PostgreSQL, or are refused"
    )

    erasure_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="by which tombstones stand for who was erased, and receipts are signed: the same in every process,"
        " and for good; none: serve makes one in QUESTLOG_HOME",
    )
    jwt_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="signs tokens with HS256; none, and no JWKS: serve makes one in QUESTLOG_HOME",
    )
    jwks_url: str | None = Field(None, description="keys of whoever signs tokens with RS256, ES256 or EdDSA")
    jwt_audience: str | None = Field(None, description="what a token's aud must hold; none: not asked for")
    jwt_issuer: str | None = Field(None, description="what a token's iss must be; none: not asked for")
    jwt_user_claim: str = Field("sub", description="the claim, dotted where nested, that holds the user's id")
    jwt_role_claims: Annotated[tuple[str, ...], NoDecode] = Field(
        ("app_metadata.role", "role"),
        min_length=1,
        description="claims, dotted where nested, of which the first that holds a role counts",
    )

    environment: Literal["development", "production"] = Field(
        "development", description="production needs its secrets set and may listen beyond loopback"
    )
    trust_clients: bool = Field(
        False, description="take XP, earned badges and safety flags from anyone, not from a SERVICE alone"
    )
    anonymize_after_days: int = Field(
        90, ge=LEAST_DAYS, le=730, description="events are anonymised before they are this many days old"
    )
    delete_after_days: int = Field(
        730, ge=90, le=3650, description="events are deleted once they are this many days old"
    )
    age_of_consent: int = Field(
        USUAL.age,
        ge=0,
        le=21,
        description="nothing of a learner below this age is kept without a recorded consent; 0: no age",
    )
    unknown_age_needs_consent: bool = Field(
        USUAL.unknown_age, description="a learner without a birth date needs a recorded consent too"
    )
    user_events_per_minute: int = Field(6000, ge=0, description="most events of one user; 0: as many as they like")
    device_events_per_minute: int = Field(6000, ge=0, description="most events of one device; 0: as many as it likes")
    address_events_per_minute: int = Field(
        300_000, ge=0, description="most events from one /24 of IPv4 or /48 of IPv6, such as a school's; 0: any number"
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = Field(
        (), description="origins, such as https://learn.example.org, whose pages may ask; none: those of no other host"
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="proxies before the API, by address or network, whose X-Forwarded-For and X-Forwarded-Proto tell "
        "who asks; none: who connects, asks",
    )

    queries_by_get: bool = Field(False, description="answer queries, and never mutations, by GET too")
    document_tokens: int = Field(2000, ge=100, le=10_000, description="most tokens of a GraphQL document")
    document_depth: int = Field(16, ge=4, le=100, description="most levels of fields in a document")
    document_aliases: int = Field(50, ge=0, description="most aliases, those of a fragment wherever it is spread")
    document_directives: int = Field(50, ge=0, description="most directives, counted likewise")
    document_root_fields: int = Field(20, ge=1, description="most fields at the root of an operation")
    question_cost: int = Field(
        5000, ge=100, description="most that a question may cost: the objects that its answer may hold"
    )
    cost_maximum: int = Field(20_000, ge=100, description="most that a viewer may spend on questions at once")
    cost_restore_rate: int = Field(
        1000, ge=0, description="what a viewer may spend again each second; 0: as much as they like"
    )
    seconds_to_answer: int = Field(10, ge=1, le=300, description="longest that PostgreSQL may work for a question")
    documents: Path | None = Field(
        None,
        description="manifest of trusted documents, as Relay, Apollo or GraphQL Code Generator writes it, for requests"
        " that name one by documentId",
    )
    documents_required: bool = Field(False, description="execute documents of the manifest and no others")
    documents_exempt_admins: bool = Field(False, description="execute any document for admins all the same")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged; info has a line for each request"
    )
    metrics_host: str = Field("127.0.0.1", description="address that serve, or work alone, has /metrics on")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port that serve, or work alone, has Prometheus' /metrics on, for all its processes;"
        " 0: a free one, which the log tells; none: nowhere",
    )

    @field_validator("jwt_role_claims", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, claims: object) -> object:
        if isinstance(claims, str):
            return tuple(claim.strip() for claim in claims.split(",") if claim.strip())
        return claims

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.jwt_secret and self.jwks_url:
            raise ValueError("QUESTLOG_JWT_SECRET and QUESTLOG_JWKS_URL exclude each other: unset one of them")
        if self.question_cost > self.cost_maximum:
            raise ValueError("QUESTLOG_QUESTION_COST is more than QUESTLOG_COST_MAXIMUM: nobody could ever pay it")
        if self.documents_required and not self.documents:
            raise ValueError("QUESTLOG_DOCUMENTS_REQUIRED needs QUESTLOG_DOCUMENTS: name the manifest")
        if self.anonymize_after_days > self.delete_after_days:
            raise ValueError(
                "QUESTLOG_ANONYMIZE_AFTER_DAYS is more than QUESTLOG_DELETE_AFTER_DAYS: events would go before that"
            )
        return self

    @property
    def consent_rule(self) -> ConsentRule:
        """Who needs a consent."""
        return ConsentRule(self.age_of_consent, self.unknown_age_needs_consent)

    @property
    def names_database(self) -> bool:
        """Whether there is a PostgreSQL to use, by its owner's URL or by one for each login."""
        return self.database_url is not None or all(getattr(self, f"{login}_database_url") for login in LOGINS)

    @property
    def erasure_key(self) -> bytes:
        """The secret for erasures, as tombstones are made with it; raises SettingsError where there is none."""
        if self.erasure_secret is None:
            raise SettingsError("set QUESTLOG_ERASURE_SECRET")
        return self.erasure_secret.get_secret_value().encode()

    def environ(self) -> dict[str, str]:
        """The settings as environment variables, secrets included, for a child process."""
        return {
            variable(name): as_text(value)
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }


def load(*, documents: Path | None = None) -> Settings:
    """The settings of this process's environment, but for what is given here; raises SettingsError."""
    known = {variable(name) for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"{name} is not a setting: `questlog settings` lists them all")
    try:
        return Settings(documents=documents) if documents else Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_in_words(detail) for detail in error.errors())) from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def as_text(value: object) -> str:
    """A setting's value as the environment would hold it."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(value)
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def with_secret(settings: Settings, *, make: bool = False) -> Settings:
    """The settings with the secret kept in home, where they name neither secret nor JWKS.

    Where none is kept, one is made if `make`. Raises SettingsError where there is none.
    """
    if settings.jwt_secret or settings.jwks_url:
        return settings
    if settings.environment == "production":
        raise SettingsError("production needs QUESTLOG_JWT_SECRET (32 characters or more) or QUESTLOG_JWKS_URL")
    return _with_kept(settings, "jwt_secret", make=make)


def with_erasure_secret(settings: Settings, *, make: bool = False) -> Settings:
    """The settings with the secret for erasures kept in home, where they name none.

    Where none is kept, one is made if `make`, which is for `serve` alone: another process would know another. Raises
    SettingsError in production, where several hosts would each make one, and where there is none to be had.
    """
    if settings.erasure_secret:
        return settings
    if settings.environment == "production":
        raise SettingsError("production needs QUESTLOG_ERASURE_SECRET (32 characters or more), the same for good")
    return _with_kept(settings, "erasure_secret", make=make)


def _with_kept(settings: Settings, name: str, *, make: bool) -> Settings:
    path = settings.home / name.replace("_", "-")
    try:
        if make and not path.exists():
            settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.write(path, secrets.token_urlsafe(48))
        return settings.model_copy(update={name: SecretStr(path.read_text().strip())})
    except FileNotFoundError:
        raise SettingsError(f"there is no {path} yet: run `questlog serve`, or set {variable(name)}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} holds no secret: remove it, and `questlog serve` makes another") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be used ({error.strerror}): change QUESTLOG_HOME") from None


def without_password(url: str) -> str:
    """The URL with its password hidden."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return urlunsplit(
        parts._replace(
            netloc=user + (":***" if colon else "") + at + place,
            query=re.sub("(password=)[^&]*", r"\1***", parts.query),
        )
    )


def _in_words(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    return f"{variable(str(detail['loc'][0]))}: {message}" if detail["loc"] else message
