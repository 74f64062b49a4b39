"""Sign-in: good tokens say who asks, and everything else is refused."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import SecretStr
from starlette.datastructures import Headers

from models.viewer import Role
from questlog.settings import Settings, SettingsError
from questlog.signin import (
    LONGEST_TOKEN,
    Claims,
    KeySet,
    SignInUnavailable,
    TokenError,
    TokenVerifier,
    authorization_of,
    sign_token,
)

Json = dict[str, Any]

SHARED = "a secret that is long enough for HS256"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PRIVATE_KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey] = {
    "RS256": RSA_KEY,
    "ES256": EC_KEY,
    "EdDSA": ED_KEY,
}
PUBLIC_JWKS: dict[str, Json] = {
    "RS256": {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "rsa"},
    "ES256": {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "ec"},
    "EdDSA": {**OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), "kid": "ed"},
}


def configured(**settings: object) -> Settings:
    return Settings.model_validate(settings)


BY_SECRET = configured(jwt_secret=SHARED)


@dataclass
class KeyServer:
    """A real HTTP server of one JWKS, which counts how often it was asked."""

    keys: list[object] = field(default_factory=lambda: [*PUBLIC_JWKS.values()])
    body: bytes | None = None
    status: int = 200
    delay: float = 0
    asked: int = 0
    url: str = ""


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    with serving(KeyServer()) as server:
        yield server


@contextmanager
def serving(server: KeyServer) -> Iterator[KeyServer]:
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1
            closing.wait(server.delay)
            body = json.dumps({"keys": server.keys}).encode() if server.body is None else server.body
            self.send_response(server.status)
            if server.status == HTTPStatus.FOUND:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Keep quiet: what was asked is counted."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = False
        server.url = f"http://127.0.0.1:{http.server_port}/jwks.json"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            closing.set()
            http.shutdown()
            thread.join()


def claims(**others: object) -> Json:
    return {"sub": "ada", "role": "student", "exp": int(time.time()) + 60, **others}


def signed(payload: object, *, secret: str | bytes = SHARED, **header: object) -> str:
    """Sign any JSON with any header by HMAC-SHA256, which the library's own encoder would refuse to do."""
    head, body = (encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", **header}, payload))
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{head}.{body}.{encoded(HMACAlgorithm(HMACAlgorithm.SHA256).sign(f'{head}.{body}'.encode(), key))}"


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_by(algorithm: str, kid: str | None = None, **others: object) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**others), PRIVATE_KEYS[algorithm], algorithm=algorithm, headers=headers)


async def verified(token: str, settings: Settings = BY_SECRET) -> Claims | None:
    return await TokenVerifier(settings).verify(f"Bearer {token}")


async def refused(token: str, settings: Settings = BY_SECRET) -> str:
    with pytest.raises(TokenError) as caught:
        await verified(token, settings)
    return str(caught.value)


class TestHeader:
    async def test_without_a_header_nobody_signs_in(self) -> None:
        assert await TokenVerifier(BY_SECRET).verify(None) is None

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    async def test_the_scheme_is_read_in_any_case(self, scheme: str) -> None:
        token = signed(claims())
        assert await TokenVerifier(BY_SECRET).verify(f"{scheme} {token}") == Claims("ada", Role.STUDENT)

    @pytest.mark.parametrize(
        "header",
        [
            *("", " ", "Bearer", "Bearer ", "Basic {}", "Token {}", "{}", "Bearer{}", "Bearer {}, Bearer {}"),
            *("Bearer {}=", "Bearer {}\n", "Bearer\t{}", "Bearer {} {}", "Bearer a.b", "Bearer ..", "Bearer .{}"),
        ],
    )
    async def test_a_header_that_is_not_bearer_and_a_token_is_refused(self, header: str) -> None:
        with pytest.raises(TokenError):
            await TokenVerifier(BY_SECRET).verify(header.replace("{}", signed(claims())))

    def test_two_headers_are_refused(self) -> None:
        one = Headers(raw=[(b"authorization", b"Bearer a.b.c")])
        two = Headers(raw=[(b"authorization", b"Bearer a.b.c"), (b"authorization", b"Bearer a.b.c")])
        assert authorization_of(Headers()) is None
        assert authorization_of(one) == "Bearer a.b.c"
        with pytest.raises(TokenError):
            authorization_of(two)


class TestToken:
    @pytest.mark.parametrize(
        "token", ["x.y.z", "e30.e30.", "bnVsbA.bnVsbA.AAAA", "W10.W10.AAAA", "\ud800.a.b", "ü.ü.ü"]
    )
    async def test_garbage_is_refused(self, token: str) -> None:
        await refused(token)

    @pytest.mark.parametrize("payload", [[], "ada", None, 1])
    async def test_claims_that_are_no_object_are_refused(self, payload: object) -> None:
        await refused(signed(payload))

    async def test_the_token_may_be_8_kib_long_and_no_longer(self) -> None:
        spare = LONGEST_TOKEN - len(signed(claims(pad="")))
        longest = signed(claims(pad="x" * (spare * 3 // 4)))
        longer = signed(claims(pad="x" * (spare * 3 // 4 + 3)))
        assert len(longest) <= LONGEST_TOKEN < len(longer)
        assert await verified(longest) is not None
        assert "longer than 8192" in await refused(longer)

    async def test_algorithm_none_is_refused(self) -> None:
        unsigned = jwt.encode(claims(), "", algorithm="none")
        await refused(unsigned)
        await refused(unsigned + "AAAA")
        head, body, signature = signed(claims()).split(".")
        names: list[object] = ["none", "None", "NONE", "", None, [], {}, 0]
        for name in names:
            head = encoded(json.dumps({"alg": name}).encode())
            await refused(f"{head}.{body}.{signature}")
            await refused(f"{head}.{body}.")
        await refused(f"{encoded(b'{}')}.{body}.{signature}")

    @pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
    async def test_other_algorithms_of_the_same_secret_are_refused(self, algorithm: str) -> None:
        secret = SHARED * 2
        token = jwt.encode(claims(), secret, algorithm=algorithm)
        assert "algorithm" in await refused(token, configured(jwt_secret=secret))

    @pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
    async def test_public_key_algorithms_are_refused_where_a_secret_is_set(self, algorithm: str) -> None:
        assert "algorithm" in await refused(signed_by(algorithm))

    async def test_another_secret_is_refused(self) -> None:
        assert "signature" in await refused(signed(claims(), secret=SHARED + "!"))

    @pytest.mark.parametrize("name", ["jku", "jwk", "x5u", "x5c"])
    async def test_a_token_that_brings_its_own_key_is_refused(self, name: str) -> None:
        assert "key of its own" in await refused(signed(claims(), **{name: "http://127.0.0.1/"}))

    @pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"kid": 1}, {"kid": None}])
    async def test_a_header_we_cannot_honour_is_refused(self, header: Json) -> None:
        await refused(signed(claims(), **header))

    async def test_the_reason_never_holds_the_token(self) -> None:
        token = signed(claims(exp=1), secret=SHARED[::-1])
        reason = await refused(token)
        assert not any(part in reason for part in token.split("."))

    @given(data=st.data())
    def test_a_changed_token_never_verifies(self, data: st.DataObject) -> None:
        token = signed(claims())
        at = data.draw(st.integers(0, len(token) - 1))
        upto = data.draw(st.integers(at, min(at + 3, len(token))))
        new = data.draw(st.text(st.characters(max_codepoint=0x17F) | st.sampled_from("AZaz09-_.="), max_size=3))
        changed = token[:at] + new + token[upto:]
        verifier = TokenVerifier(BY_SECRET)
        if changed.rstrip(" ") == token:
            assert asyncio.run(verifier.verify(f"Bearer {changed}")) == Claims("ada", Role.STUDENT)
        else:
            with pytest.raises(TokenError):
                asyncio.run(verifier.verify(f"Bearer {changed}"))

    @given(header=st.text(max_size=200) | st.text(alphabet="Bearer .AZaz09-_", max_size=200))
    def test_no_header_at_all_does_more_than_be_refused(self, header: str) -> None:
        verifier = TokenVerifier(BY_SECRET)
        for authorization in (header, f"Bearer {header}"):
            with pytest.raises(TokenError):
                asyncio.run(verifier.verify(authorization))


class TestTimes:
    async def test_an_expired_token_is_refused(self) -> None:
        assert await refused(signed(claims(exp=int(time.time()) - 31))) == "the token has expired"

    async def test_a_token_of_the_future_is_refused(self) -> None:
        for name in ("nbf", "iat"):
            assert await refused(signed(claims(**{name: int(time.time()) + 35}))) == "the token is not valid yet"

    async def test_clocks_may_differ_a_little(self) -> None:
        now = int(time.time())
        assert await verified(signed(claims(exp=now - 20, nbf=now + 20))) is not None

    async def test_a_token_without_expiry_is_refused(self) -> None:
        assert "expiry" in await refused(signed({"sub": "ada"}))
        assert "expiry" in await refused(signed(claims(exp=None)))

    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize("value", ["soon", [], {}, float("nan"), float("inf")])
    async def test_a_time_that_is_none_is_refused(self, name: str, value: object) -> None:
        await refused(signed(claims(**{name: value})))

    async def test_a_token_that_was_good_is_refused_once_it_has_expired(self) -> None:
        token = f"Bearer {signed(claims(exp=int(time.time()) - 28))}"
        verifier = TokenVerifier(BY_SECRET)
        assert await verifier.verify(token)
        assert await verifier.verify(token)
        await asyncio.sleep(3)
        with pytest.raises(TokenError, match="expired"):
            await verifier.verify(token)


class TestAudienceAndIssuer:
    settings = configured(jwt_secret=SHARED, jwt_audience="questlog", jwt_issuer="https://issuer.example")

    @pytest.mark.parametrize("audience", ["questlog", ["other", "questlog"]])
    async def test_ours_are_taken(self, audience: object) -> None:
        token = signed(claims(aud=audience, iss="https://issuer.example"))
        assert await verified(token, self.settings) == Claims("ada", Role.STUDENT)

    @pytest.mark.parametrize(
        "audience", ["other", "Questlog", ["other"], [], "", None, ["questlog", 1], {"questlog": 1}]
    )
    async def test_another_audience_is_refused(self, audience: object) -> None:
        await refused(signed(claims(aud=audience, iss="https://issuer.example")), self.settings)

    @pytest.mark.parametrize("issuer", ["https://issuer.example/", "", None, ["https://issuer.example"]])
    async def test_another_issuer_is_refused(self, issuer: object) -> None:
        await refused(signed(claims(aud="questlog", iss=issuer)), self.settings)

    async def test_neither_may_be_missing(self) -> None:
        await refused(signed(claims(iss="https://issuer.example")), self.settings)
        await refused(signed(claims(aud="questlog")), self.settings)

    async def test_neither_is_asked_for_unless_set(self) -> None:
        assert await verified(signed(claims(aud="authenticated", iss="anyone"))) is not None


class TestUser:
    @pytest.mark.parametrize("user_id", ["a", "x" * 200, "ß\n✓", "auth0|42"])
    async def test_any_short_string_is_a_user_id(self, user_id: str) -> None:
        assert await verified(signed(claims(sub=user_id))) == Claims(user_id, Role.STUDENT)

    @pytest.mark.parametrize("user_id", ["", "x" * 201, "a\0b", "a\ud800b", 42, True, None, ["ada"], {"id": "ada"}])
    async def test_anything_else_is_refused(self, user_id: object) -> None:
        assert "user id" in await refused(signed(claims(sub=user_id)))

    async def test_a_token_without_user_is_refused(self) -> None:
        assert "user id" in await refused(signed({"role": "admin", "exp": int(time.time()) + 60}))

    async def test_the_claim_is_a_setting(self) -> None:
        settings = configured(jwt_secret=SHARED, jwt_user_claim="app.user.id")
        assert await verified(signed(claims(app={"user": {"id": "eve"}})), settings) == Claims("eve", Role.STUDENT)
        others: list[object] = [{"user": "eve"}, {"user": {}}, "eve", ["user"], None]
        for app in others:
            await refused(signed(claims(app=app)), settings)

    async def test_a_claim_whose_name_holds_dots_is_found_whole(self) -> None:
        settings = configured(jwt_secret=SHARED, jwt_user_claim="https://school.example/user")
        token = signed(claims(**{"https://school.example/user": "eve"}))
        assert await verified(token, settings) == Claims("eve", Role.STUDENT)


class TestRole:
    @pytest.mark.parametrize("role", [Role.STUDENT, Role.PARENT, Role.ADMIN, Role.SERVICE])
    async def test_each_of_the_four_is_known(self, role: Role) -> None:
        assert await verified(signed(claims(role=role.value.lower()))) == Claims("ada", role)

    @pytest.mark.parametrize(
        "role", ["Admin", "ADMIN", " admin", "anonymous", "authenticated", "", None, 1, ["admin"], {}]
    )
    async def test_nothing_else_is_a_role(self, role: object) -> None:
        assert await verified(signed(claims(role=role))) == Claims("ada", None)

    async def test_the_first_claim_that_holds_a_role_counts(self) -> None:
        both = signed(claims(role="admin", app_metadata={"role": "parent"}))
        passed_over = signed(claims(role="admin", app_metadata={"role": "authenticated"}))
        assert await verified(both) == Claims("ada", Role.PARENT)
        assert await verified(passed_over) == Claims("ada", Role.ADMIN)

    async def test_what_users_may_write_themselves_gives_no_role(self) -> None:
        token = signed(claims(role="authenticated", user_metadata={"role": "admin"}))
        assert await verified(token) == Claims("ada", None)


class TestSettings:
    def test_secret_and_jwks_exclude_each_other(self) -> None:
        both = BY_SECRET.model_copy(update={"jwks_url": "https://issuer.example/jwks.json"})
        with pytest.raises(SettingsError, match="exclude each other"):
            TokenVerifier(both)

    def test_one_of_them_is_needed(self) -> None:
        with pytest.raises(SettingsError, match="QUESTLOG_JWT_SECRET or QUESTLOG_JWKS_URL"):
            TokenVerifier(Settings())

    def test_a_public_key_or_a_short_secret_is_none(self) -> None:
        pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for secret in (pem, json.dumps(PUBLIC_JWKS["ES256"]), "", "x" * 31):
            with pytest.raises(SettingsError, match="32 bytes or more, and neither public key"):
                TokenVerifier(BY_SECRET.model_copy(update={"jwt_secret": SecretStr(secret)}))

    @pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://issuer.example/", "issuer.example", "https://"])
    def test_the_jwks_url_is_one_of_http(self, url: str) -> None:
        with pytest.raises(SettingsError, match="QUESTLOG_JWKS_URL"):
            TokenVerifier(configured(jwks_url=url))


class TestPublicKeys:
    @pytest.mark.parametrize("with_alg", [False, True])
    @pytest.mark.parametrize("with_kid", [False, True])
    @pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
    async def test_each_algorithm_verifies(
        self, key_server: KeyServer, algorithm: str, with_kid: bool, with_alg: bool
    ) -> None:
        if with_alg:
            key_server.keys = [{**key, "alg": name} for name, key in PUBLIC_JWKS.items()]
        token = signed_by(algorithm, PUBLIC_JWKS[algorithm]["kid"] if with_kid else None)
        assert await verified(token, configured(jwks_url=key_server.url)) == Claims("ada", Role.STUDENT)

    @pytest.mark.parametrize("form", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1])
    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    async def test_key_confusion_is_refused(
        self, key_server: KeyServer, encoding: Encoding, form: PublicFormat
    ) -> None:
        public = RSA_KEY.public_key().public_bytes(encoding, form)
        for secret in (public, public.strip(), json.dumps(PUBLIC_JWKS["RS256"]).encode()):
            token = signed(claims(), secret=secret, kid="rsa")
            assert "algorithm" in await refused(token, configured(jwks_url=key_server.url))
        assert key_server.asked == 0

    async def test_a_secret_among_the_keys_is_none(self, key_server: KeyServer) -> None:
        secret = {"kty": "oct", "k": encoded(SHARED.encode()), "kid": "shared", "alg": "HS256"}
        key_server.keys = [secret, *PUBLIC_JWKS.values()]
        await refused(signed(claims(), kid="shared"), configured(jwks_url=key_server.url))

    @pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
    async def test_other_algorithms_of_the_same_key_are_refused(self, key_server: KeyServer, algorithm: str) -> None:
        token = jwt.encode(claims(), RSA_KEY, algorithm=algorithm, headers={"kid": "rsa"})
        assert "algorithm" in await refused(token, configured(jwks_url=key_server.url))

    async def test_a_key_serves_the_algorithm_it_names_alone(self, key_server: KeyServer) -> None:
        key_server.keys = [{**PUBLIC_JWKS["RS256"], "alg": "RS512"}, PUBLIC_JWKS["EdDSA"]]
        await refused(signed_by("RS256", "rsa"), configured(jwks_url=key_server.url))

    async def test_a_wrong_key_id_is_refused(self, key_server: KeyServer) -> None:
        settings = configured(jwks_url=key_server.url)
        for kid in ("ec", "made up", "", "RSA"):
            assert "not known here" in await refused(signed_by("RS256", kid), settings)

    async def test_another_key_under_a_known_id_is_refused(self, key_server: KeyServer) -> None:
        token = jwt.encode(claims(), ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "ec"})
        assert "signature" in await refused(token, configured(jwks_url=key_server.url))

    async def test_without_key_id_there_must_be_one_key_only(self, key_server: KeyServer) -> None:
        other = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
        key_server.keys = [PUBLIC_JWKS["ES256"], {**other, "kid": "other"}]
        settings = configured(jwks_url=key_server.url)
        assert await verified(signed_by("ES256", "ec"), settings) is not None
        assert "not known here" in await refused(signed_by("ES256"), settings)

    @pytest.mark.parametrize("purpose", [{"use": "enc"}, {"key_ops": ["encrypt"]}])
    async def test_keys_for_encryption_are_passed_over(self, key_server: KeyServer, purpose: Json) -> None:
        key_server.keys = [{**PUBLIC_JWKS["RS256"], **purpose}, {**PUBLIC_JWKS["ES256"], "use": "sig", "key_ops": None}]
        settings = configured(jwks_url=key_server.url)
        await refused(signed_by("RS256", "rsa"), settings)
        assert await verified(signed_by("ES256", "ec"), settings) is not None

    async def test_entries_that_are_no_keys_of_ours_are_passed_over(self, key_server: KeyServer) -> None:
        private = {**RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True), "kid": "rsa", "key_ops": ["sign", "verify"]}
        strange = [None, "key", {}, {"kty": "new"}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-0"}, private]
        key_server.keys = [*strange, PUBLIC_JWKS["ES256"]]
        settings = configured(jwks_url=key_server.url)
        await refused(signed_by("RS256", "rsa"), settings)
        assert await verified(signed_by("ES256", "ec"), settings) is not None

    async def test_a_weak_key_is_refused(self, key_server: KeyServer) -> None:
        weak = rsa.generate_private_key(public_exponent=65537, key_size=2048 // 2)
        key_server.keys = [{**RSAAlgorithm.to_jwk(weak.public_key(), as_dict=True), "kid": "weak"}]
        head, body = (encoded(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "weak"}, claims()))
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(f"{head}.{body}".encode(), weak)
        await refused(f"{head}.{body}.{encoded(signature)}", configured(jwks_url=key_server.url))

    async def test_a_token_that_brings_its_own_key_is_refused(self, key_server: KeyServer) -> None:
        attacker = ec.generate_private_key(ec.SECP256R1())
        own = {**ECAlgorithm.to_jwk(attacker.public_key(), as_dict=True), "kid": "own"}
        with serving(KeyServer(keys=[own])) as attackers_server:
            for name, value in {"jwk": own, "jku": attackers_server.url, "x5u": attackers_server.url}.items():
                for kid in ("own", "ec"):
                    token = jwt.encode(claims(), attacker, "ES256", headers={"kid": kid, name: value})
                    assert "key of its own" in await refused(token, configured(jwks_url=key_server.url))
            assert attackers_server.asked == key_server.asked == 0


class TestFetching:
    """Keys come over HTTP, seldom, and outlive the server they came from."""

    async def test_many_requests_share_one_fetch(self, key_server: KeyServer) -> None:
        key_server.delay = 0.1
        keys = KeySet(key_server.url, retry=0)
        found = await asyncio.gather(*(keys.find("EdDSA", "ed") for _ in range(50)))
        assert {key.key_id for key in found} == {"ed"}
        assert key_server.asked == 1

    async def test_made_up_key_ids_make_no_flood_of_fetches(self, key_server: KeyServer) -> None:
        keys = KeySet(key_server.url, pause=0.3)
        await keys.find("ES256", "ec")
        for n in range(100):
            with pytest.raises(TokenError):
                await keys.find("ES256", f"made up {n}")
        assert key_server.asked == 1
        await asyncio.sleep(0.3)
        answers = await asyncio.gather(*(keys.find("ES256", f"{n}") for n in range(100)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {TokenError}
        assert key_server.asked == 2

    async def test_a_new_key_is_fetched_when_first_seen(self, key_server: KeyServer) -> None:
        key_server.keys = [PUBLIC_JWKS["ES256"]]
        keys = KeySet(key_server.url, pause=0)
        await keys.find("ES256", "ec")
        key_server.keys = [PUBLIC_JWKS["RS256"]]
        assert (await keys.find("RS256", "rsa")).key_id == "rsa"
        with pytest.raises(TokenError):
            await keys.find("ES256", "ec")

    async def test_a_withdrawn_key_is_soon_refused(self, key_server: KeyServer) -> None:
        keys = KeySet(key_server.url, fresh_for=0.1, pause=0)
        await keys.find("ES256", "ec")
        key_server.keys = [PUBLIC_JWKS["RS256"]]
        await asyncio.sleep(0.1)
        with pytest.raises(TokenError):
            await keys.find("ES256", "ec")

    async def test_keys_in_hand_outlive_an_outage(self, key_server: KeyServer) -> None:
        key_server.keys = [PUBLIC_JWKS["ES256"]]
        keys = KeySet(key_server.url, fresh_for=0, pause=0)
        key = await keys.find("ES256", "ec")
        key_server.status = 503
        assert await keys.find("ES256", "ec") is key
        with pytest.raises(SignInUnavailable):
            await keys.find("ES256", "perhaps a new one")
        assert key_server.asked == 3
        key_server.status, key_server.keys = 200, [PUBLIC_JWKS["RS256"]]
        assert (await keys.find("RS256", "rsa")).key_id == "rsa"
        with pytest.raises(TokenError):
            await keys.find("ES256", "ec")

    async def test_keys_in_hand_outlive_their_server(self, caplog: pytest.LogCaptureFixture) -> None:
        with serving(KeyServer()) as server:
            keys = KeySet(server.url, fresh_for=0, pause=0)
            key = await keys.find("ES256", "ec")
        assert await keys.find("ES256", "ec") is key
        assert f"no keys from {server.url}" in caplog.text

    async def test_nobody_waits_twice_for_a_server_that_hangs(self, key_server: KeyServer) -> None:
        keys = KeySet(key_server.url, fresh_for=0, pause=0)
        await keys.find("ES256", "ec")
        key_server.status, key_server.delay = 500, 0.5
        await keys.find("ES256", "ec")
        async with asyncio.timeout(2):
            for _ in range(10):
                await keys.find("ES256", "ec")

    async def test_keys_are_not_trusted_for_ever(self, key_server: KeyServer) -> None:
        keys = KeySet(key_server.url, kept_for=0.1, pause=0)
        await keys.find("ES256", "ec")
        key_server.status = 500
        await asyncio.sleep(0.1)
        with pytest.raises(SignInUnavailable):
            await keys.find("ES256", "ec")

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            *((500, None), (404, None), (302, None), (200, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}")),
            *((200, b'{"keys":[]}'), (200, b'{"keys":1}'), (200, b'{"keys":[{"kty":"oct"}]}'), (200, b"\xff")),
        ],
    )
    async def test_without_keys_nobody_can_be_judged(
        self, key_server: KeyServer, status: int, body: bytes | None
    ) -> None:
        key_server.status, key_server.body = status, body
        verifier = TokenVerifier(configured(jwks_url=key_server.url))
        for _ in range(20):
            with pytest.raises(SignInUnavailable):
                await verifier.verify(f"Bearer {signed_by('ES256', 'ec')}")
        assert key_server.asked == 1

    async def test_without_keys_it_is_tried_again_soon(self, key_server: KeyServer) -> None:
        keys = KeySet(key_server.url, retry=0.1)
        key_server.status = 503
        with pytest.raises(SignInUnavailable):
            await keys.find("ES256", "ec")
        key_server.status = 200
        await asyncio.sleep(0.1)
        assert (await keys.find("ES256", "ec")).key_id == "ec"

    async def test_a_server_that_does_not_answer_is_given_up(self, key_server: KeyServer) -> None:
        key_server.delay = 6
        with pytest.raises(SignInUnavailable):
            await KeySet(key_server.url).find("ES256", "ec")

    async def test_a_client_who_hangs_up_breaks_off_nothing(self, key_server: KeyServer) -> None:
        key_server.delay = 0.2
        keys = KeySet(key_server.url)
        first = asyncio.create_task(keys.find("ES256", "ec"))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await keys.find("ES256", "ec")).key_id == "ec"
        assert first.cancelled()
        assert key_server.asked == 1


class TestSigning:
    @pytest.mark.parametrize("user_claim", ["sub", "app.user", "https://school.example/user"])
    @pytest.mark.parametrize(
        "role_claims", [("app_metadata.role", "role"), ("app.role",), ("https://school.example/r",)]
    )
    @pytest.mark.parametrize("role", [Role.STUDENT, Role.PARENT, Role.ADMIN, Role.SERVICE])
    async def test_what_is_signed_verifies(self, user_claim: str, role_claims: tuple[str, ...], role: Role) -> None:
        settings = configured(
            jwt_secret=SHARED,
            jwt_audience="questlog",
            jwt_issuer="https://issuer.example",
            jwt_user_claim=user_claim,
            jwt_role_claims=role_claims,
        )
        token = sign_token(settings, user_id="ada", role=role)
        assert await verified(token, settings) == Claims("ada", role)

    @given(user_id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200))
    def test_any_user_id_is_read_back(self, user_id: str) -> None:
        token = sign_token(BY_SECRET, user_id=user_id, role=Role.PARENT)
        assert asyncio.run(verified(token)) == Claims(user_id, Role.PARENT)

    async def test_it_ends_after_its_hours(self) -> None:
        token = sign_token(BY_SECRET, user_id="ada", role=Role.ADMIN, hours=1.5)
        read = jwt.decode(token, SHARED, algorithms=["HS256"])
        assert read["exp"] - read["iat"] == 5400
        assert "expired" in await refused(sign_token(BY_SECRET, user_id="ada", role=Role.ADMIN, hours=-1))

    def test_it_needs_a_secret_of_ours(self) -> None:
        for settings in (configured(), configured(jwks_url="https://issuer.example/jwks.json")):
            with pytest.raises(SettingsError):
                sign_token(settings, user_id="ada", role=Role.ADMIN)

    def test_what_could_not_be_read_back_is_not_signed(self) -> None:
        with pytest.raises(TokenError):
            sign_token(BY_SECRET, user_id="", role=Role.ADMIN)
        with pytest.raises(ValueError, match="ANONYMOUS"):
            sign_token(BY_SECRET, user_id="ada", role=Role.ANONYMOUS)
