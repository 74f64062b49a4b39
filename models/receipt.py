"""Receipts that can be checked: signed with a key that follows from the installation's secret."""

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PURPOSE = b"questlog receipts"


def public_key(secret: bytes) -> str:
    """The key that receipts of this installation are checked with, in Base64: it is for everybody to know."""
    return _text(_private_key(secret).public_key().public_bytes_raw())


def signed(receipt: Mapping[str, Any], secret: bytes) -> dict[str, Any]:
    """The receipt with the key to check it by and an Ed25519 signature of all the rest."""
    whole = {**receipt, "publicKey": public_key(secret)}
    return {**whole, "signature": _text(_private_key(secret).sign(_canonical(whole)))}


def is_genuine(receipt: object, key: str) -> bool:
    """Whether every letter of the receipt is as the holder of that key signed it."""
    if not isinstance(receipt, dict) or receipt.get("publicKey") != key:
        return False
    unsigned = {name: value for name, value in receipt.items() if name != "signature"}
    try:
        by = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        by.verify(base64.b64decode(str(receipt.get("signature")), validate=True), _canonical(unsigned))
    except (InvalidSignature, ValueError, orjson.JSONEncodeError):  # the last for what is too deep
        return False
    return True


def _private_key(secret: bytes) -> Ed25519PrivateKey:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(secret)
    return Ed25519PrivateKey.from_private_bytes(derived)


def _canonical(receipt: Mapping[str, Any]) -> bytes:
    return orjson.dumps(receipt, option=orjson.OPT_SORT_KEYS)


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
