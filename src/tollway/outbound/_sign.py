"""Signatures after Standard Webhooks: which secret signs a delivery, and the headers that prove it.

Only values of the form `whsec_<base64>` are secrets: a client names the variable, and must not be able to have another
secret of this process used, or to learn of it.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime

from standardwebhooks import Webhook

DEFAULT_SECRET_ENV = "TOLLWAY_WEBHOOK_SECRET"
SECRET_PREFIX = "whsec_"
SECRET_BYTES_MIN = 16


class SecretUnusable(Exception):
    """The secret that must sign is not there or not one; the message says what to do, and never holds its value."""


def signing_secret(environment: Mapping[str, str], secret_env: str | None) -> bytes | None:
    """The key that signs: of the variable the run names, else the default one; None when neither is asked for.

    Raises SecretUnusable.
    """
    name = secret_env or DEFAULT_SECRET_ENV
    text = environment.get(name, "")
    if not text and secret_env is None:
        return None
    if text.startswith(SECRET_PREFIX):
        try:
            encoded = text[len(SECRET_PREFIX) :].rstrip("=")
            secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            secret = b""
        if len(secret) >= SECRET_BYTES_MIN:
            return secret
    raise SecretUnusable(
        f"the keeper's environment variable {name} holds no webhook secret: "
        f"set it to {SECRET_PREFIX} and the base64 of {SECRET_BYTES_MIN} or more random bytes"
    )


def signed_headers(message_id: str, at: float, body: bytes, secret: bytes | None) -> dict[str, str]:
    """The `webhook-*` headers of an attempt made `at` (epoch seconds); without a secret there is no signature."""
    headers = {"webhook-id": message_id, "webhook-timestamp": str(int(at))}
    if secret is not None:
        signature = Webhook(secret).sign(message_id, datetime.fromtimestamp(int(at), UTC), body.decode())
        headers["webhook-signature"] = signature
    return headers
