"""Keys that sign tokens, the server that publishes them, and the clock by which they get stale."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import jwt
import orjson
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa


class Clock:
    """Monotonic seconds that pass only when told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class KeyServer:
    """A JSON Web Key Set endpoint whose answers the test sets; `gate` holds them back while it is clear."""

    def __init__(self, *jwks):
        self.reply: Any = None
        self.serve(*jwks)
        self.url = ""
        self.requests = 0
        self.headers: Any = None
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def serve(self, *jwks):
        body = orjson.dumps({"keys": jwks})
        self.reply = lambda: web.Response(body=body, content_type="application/json")

    def fail(self, status=500):
        self.reply = lambda: web.Response(status=status)

    def app(self):
        app = web.Application()
        app.router.add_get("/jwks", self._handle)
        return app

    async def _handle(self, request):
        self.requests += 1
        self.headers = request.headers
        self.arrived.set()
        await self.gate.wait()
        return self.reply()


@functools.cache
def private_key(kind, name=""):
    """Return a private key; another `name` gives another key."""
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "RSA-1024":
            return rsa.generate_private_key(65537, 1024)
        case "P-256":
            return ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
        case "P-521":
            return ec.generate_private_key(ec.SECP521R1())
        case "secp256k1":
            return ec.generate_private_key(ec.SECP256K1())
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "Ed448":
            return ed448.Ed448PrivateKey.generate()
        case _:
            raise AssertionError(f"no such kind: {kind} {name}")


def as_jwk(key, **members):
    """Return the JSON Web Key of a private or public key, with other members beside."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        document: Any = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        document = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
    else:
        document = jwt.algorithms.OKPAlgorithm.to_jwk(key, as_dict=True)
    document.pop("key_ops", None)
    return {**document, **members}


def public_jwk(kind, kid, **members):
    return as_jwk(private_key(kind, kid).public_key(), kid=kid, **members)


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
