"""Who is asking: bearer tokens, verified with a secret or somebody's public keys, and signed for development."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import jwt
from cachetools import TLRUCache
from jwt.algorithms import HMACAlgorithm
from starlette.datastructures import Headers

from models.viewer import Role
from questlog.settings import Settings, SettingsError

LEEWAY = 30  # seconds that the signer's clock and ours may differ
LONGEST_TOKEN = 8 * 1024
TOKENS_REMEMBERED, SECONDS_REMEMBERED = 10_000, 60  # good ones, so that a signature is not checked at every request
FETCH_TIMEOUT = 5  # seconds

BEARER = re.compile(r"bearer +([\w-]+\.[\w-]+\.[\w-]+) *", re.ASCII | re.IGNORECASE)
USER_ID = re.compile("[^\x00\ud800-\udfff]{1,200}")
ROLES = {role.lower(): role for role in Role if role is not Role.ANONYMOUS}
KEYS_OF_THE_TOKENS_OWN = {"jku", "jwk", "x5c", "x5u"}
SECRET_ALGORITHMS = ("HS256",)
PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")
BAD_ANSWERS = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, jwt.PyJWTError, LookupError, TypeError, ValueError)

REASONS: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "the token has expired",
    jwt.ImmatureSignatureError: "the token is not valid yet",
    jwt.InvalidAlgorithmError: "the token is signed with an algorithm that is not taken here",
    jwt.InvalidAudienceError: "the token is meant for another audience",
    jwt.InvalidIssuerError: "the token comes from another issuer",
    jwt.InvalidSignatureError: "the token's signature is wrong",
    jwt.MissingRequiredClaimError: "the token lacks an expiry, audience or issuer that is asked for",
}

logger = logging.getLogger(__name__)


class TokenError(Exception):
    """What is wrong with a token, in words that a client may read: they never hold the token."""


class SignInUnavailable(Exception):  # noqa: N818 - no error was made; it says how things are
    """A token could not be judged, because the keys cannot be fetched just now."""


@dataclass(frozen=True)
class Claims:
    """What a verified token says; role is None where it names none of ours."""

    user_id: str
    role: Role | None


def authorization_of(headers: Headers) -> str | None:
    """The one Authorization header, or None; raises TokenError where there are several."""
    match headers.getlist("authorization"):
        case []:
            return None
        case [authorization]:
            return authorization
        case _:
            raise TokenError("there is more than one Authorization header")


class TokenVerifier:
    """Verifies tokens by the secret, or by the public keys, that the settings name."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError unless the settings name exactly one of secret and JWKS, and it can be used."""
        if settings.jwt_secret is not None and settings.jwks_url is not None:
            raise SettingsError("QUESTLOG_JWT_SECRET and QUESTLOG_JWKS_URL exclude each other: unset one of them")
        self._settings = settings
        self._keys = None if settings.jwks_url is None else KeySet(settings.jwks_url)
        self._secret = b"" if self._keys else _secret(settings)
        self._algorithms = PUBLIC_KEY_ALGORITHMS if self._keys else SECRET_ALGORITHMS
        self._remembered: TLRUCache[bytes, tuple[Claims, int]] = TLRUCache(
            TOKENS_REMEMBERED, lambda _, found, now: min(found[1], now + SECONDS_REMEMBERED), time.time
        )

    async def check(self) -> None:
        """Raises SettingsError where the keys cannot be fetched; with a secret there is nothing to fetch."""
        if self._keys is None:
            return
        try:
            await self._keys.fetch()
        except BAD_ANSWERS as error:
            raise SettingsError(
                f"QUESTLOG_JWKS_URL gives no keys ({type(error).__name__}): start what serves it, or change it"
            ) from None

    async def verify(self, authorization: str | None) -> Claims | None:
        """What the header's bearer token says, None without a header.

        Raises TokenError where the header holds anything but a good token, and SignInUnavailable where its key
        cannot be fetched.
        """
        if authorization is None:
            return None
        digest = sha256(authorization.encode("utf-8", "surrogatepass")).digest()
        if found := self._remembered.get(digest):
            return found[0]
        verified = await self._verified(_bearer_token(authorization))
        claims = Claims(_checked_user_id(_claim(verified, self._settings.jwt_user_claim)), self._role(verified))
        self._remembered[digest] = claims, int(verified["exp"]) + LEEWAY
        return claims

    async def _verified(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            return jwt.decode(
                token,
                await self._key(header),
                algorithms=self._algorithms,
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=LEEWAY,
                options={
                    "require": ["exp"],
                    "verify_aud": self._settings.jwt_audience is not None,
                    "verify_sub": False,  # the user's id is judged below, whichever claim holds it
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.PyJWTError as error:
            raise TokenError(REASONS.get(type(error), "the token cannot be read")) from None

    async def _key(self, header: Mapping[str, Any]) -> jwt.PyJWK | bytes:
        if not KEYS_OF_THE_TOKENS_OWN.isdisjoint(header):
            raise TokenError("the token brings a key of its own")
        if header.get("alg") not in self._algorithms:
            raise jwt.InvalidAlgorithmError
        if self._keys is None:
            return self._secret
        return await self._keys.find(header["alg"], header.get("kid"))

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        named = (_claim(claims, name) for name in self._settings.jwt_role_claims)
        return next((ROLES[role] for role in named if isinstance(role, str) and role in ROLES), None)


class KeySet:
    """Somebody's public keys (a JWKS), fetched when first needed and kept; all times are seconds.

    Keys older than `fresh_for` are fetched again, and serve on for up to `kept_for` while that fails. However many
    unknown keys are asked for, fetches begin at least `pause` apart; `retry`, while there are no keys at all.
    """

    def __init__(
        self, url: str, *, fresh_for: float = 300, kept_for: float = 86_400, pause: float = 30, retry: float = 5
    ) -> None:
        """Raises SettingsError where the URL is not one of http or https."""
        if not re.match(r"https?://[^/]", url):
            raise SettingsError("QUESTLOG_JWKS_URL must begin with https:// or http://")
        self._url = url
        self._fresh_for, self._kept_for, self._pause, self._retry = fresh_for, kept_for, pause, retry
        self._keys: list[jwt.PyJWK] = []
        self._fetched_at = self._tried_at = float("-inf")
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, kid: str | None) -> jwt.PyJWK:
        """The key of that algorithm and id; without an id, the only key of that algorithm.

        Raises TokenError where there is no such key, and SignInUnavailable where that cannot be known.
        """
        key = self._matching(algorithm, kid)
        if key is None or self._age() > self._fresh_for:
            fetching = self._latest_fetch()
            if key is None or not self._failing:
                # shielded, so that a client who hangs up cannot break off the fetch for everybody
                await asyncio.shield(fetching)
            key = self._matching(algorithm, kid)
        if key is None and self._failing:
            raise SignInUnavailable("the keys that verify tokens cannot be fetched")
        if key is None:
            raise TokenError("the token is signed with a key that is not known here")
        return key

    def _age(self) -> float:
        return time.monotonic() - self._fetched_at

    def _matching(self, algorithm: str, kid: str | None) -> jwt.PyJWK | None:
        if self._age() > self._kept_for:
            return None
        keys = [key for key in self._keys if key.algorithm_name == algorithm and kid in (None, key.key_id)]
        return keys[0] if len(keys) == 1 else None

    def _latest_fetch(self) -> asyncio.Task[None]:
        due = time.monotonic() - self._tried_at >= (self._pause if self._keys else self._retry)
        if self._fetching is None or (self._fetching.done() and due):
            self._tried_at = time.monotonic()
            self._fetching = asyncio.create_task(self._try_to_fetch())
        return self._fetching

    async def fetch(self) -> None:
        """Fetch the keys now; raises one of BAD_ANSWERS where that fails."""
        async with asyncio.timeout(FETCH_TIMEOUT), httpx.AsyncClient() as client:
            answer = (await client.get(self._url)).raise_for_status()
        self._keys = jwt.PyJWKSet([key for key in answer.json()["keys"] if _verifies(key)]).keys
        self._fetched_at = time.monotonic()

    async def _try_to_fetch(self) -> None:
        try:
            await self.fetch()
            self._failing = False
        except BAD_ANSWERS as error:
            self._failing = True
            logger.warning("no keys from %s: %r", self._url, error)


def sign_token(settings: Settings, *, user_id: str, role: Role, hours: float = 24) -> str:
    """A token of that many hours for development, signed with the secret.

    Raises SettingsError where tokens are not ours to sign, TokenError for an id that no token may hold, and
    ValueError for ANONYMOUS.
    """
    if settings.jwks_url is not None:
        raise SettingsError("QUESTLOG_JWKS_URL is set: tokens come from whoever holds its keys")
    if role is Role.ANONYMOUS:
        raise ValueError("nobody signs in as ANONYMOUS")
    now = int(time.time())
    claims: dict[str, str | int] = {
        settings.jwt_user_claim: _checked_user_id(user_id),
        settings.jwt_role_claims[-1]: role.lower(),
        "iat": now,
        "exp": now + int(hours * 3600),
    }
    if settings.jwt_audience is not None:
        claims["aud"] = settings.jwt_audience
    if settings.jwt_issuer is not None:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, _secret(settings), algorithm="HS256")


def _secret(settings: Settings) -> bytes:
    if settings.jwt_secret is None:
        raise SettingsError("no token can be verified: set QUESTLOG_JWT_SECRET or QUESTLOG_JWKS_URL")
    hs256 = HMACAlgorithm(HMACAlgorithm.SHA256)
    try:
        secret = hs256.prepare_key(settings.jwt_secret.get_secret_value())
    except jwt.InvalidKeyError:
        secret = b""
    if hs256.check_key_length(secret):
        raise SettingsError("QUESTLOG_JWT_SECRET must be of 32 bytes or more, and neither public key nor certificate")
    return secret


def _bearer_token(authorization: str) -> str:
    bearer = BEARER.fullmatch(authorization)
    if bearer is None:
        raise TokenError("the Authorization header is not Bearer and a token")
    if len(bearer[1]) > LONGEST_TOKEN:
        raise TokenError(f"the token is longer than {LONGEST_TOKEN} characters")
    return bearer[1]


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim of that whole name (names that are URLs hold dots too), else the one that its dots lead to."""
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _checked_user_id(user_id: object) -> str:
    if not isinstance(user_id, str) or USER_ID.fullmatch(user_id) is None:
        raise TokenError("the token's user id is not a string of 1 to 200 characters")
    return user_id


def _verifies(key: object) -> bool:
    """Whether this entry of a JWKS is public and there to verify signatures."""
    return (
        isinstance(key, dict)
        and "d" not in key
        and (key.get("use") or "sig") == "sig"
        and "verify" in (key.get("key_ops") or ["verify"])
    )
