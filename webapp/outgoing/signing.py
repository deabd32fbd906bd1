"""How a message is signed: as https://www.standardwebhooks.com has it, which has libraries for receivers."""

from __future__ import annotations

import base64
import hmac

PREFIX = "whsec_"


def webhook_secret(secret_key: str, webhook_id: str, number: int) -> str:
    """The secret that a receiver is given: "whsec_" and 32 bytes in base64. `secret_key` is the installation's."""
    key = hmac.digest(secret_key.encode(), f"webhook {webhook_id} {number}".encode(), "sha256")
    return PREFIX + base64.b64encode(key).decode()


def signed_headers(secret: str, message_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """The three headers of a message that is sent at `seconds` since 1970."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signature = hmac.digest(key, f"{message_id}.{seconds}.".encode() + body, "sha256")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
