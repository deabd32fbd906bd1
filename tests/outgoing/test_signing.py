"""Messages are signed as Standard Webhooks has it, so that its libraries check them."""

import base64
import hashlib
import hmac

from webapp.outgoing.signing import signed_headers, webhook_secret

EXAMPLE = {  # of the specification's reference libraries
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "message_id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "seconds": 1614265330,
    "body": b'{"test": 2432232314}',
}
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_the_specification_s_own_example():
    assert signed_headers(**EXAMPLE) == {
        "webhook-id": EXAMPLE["message_id"],
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_secrets_are_of_one_installation_webhook_and_number():
    given = [("key", "a", 1), ("other", "a", 1), ("key", "b", 1), ("key", "a", 2), ("key", "a1", 1)]
    secrets = {webhook_secret(*each) for each in given}
    assert len(secrets) == len(given)
    assert webhook_secret("key", "a", 1) in secrets  # the same again
    for secret in secrets:
        prefix, _, rest = secret.partition("_")
        assert (prefix, len(base64.b64decode(rest))) == ("whsec", 32)


def test_another_body_id_or_time_is_another_signature():
    secret = webhook_secret("key", "a", 1)
    one = signed_headers(secret, "m", 1, b"{}")["webhook-signature"]
    for other in (("n", 1, b"{}"), ("m", 2, b"{}"), ("m", 1, b"[]")):
        assert signed_headers(secret, *other)["webhook-signature"] != one
    key = base64.b64decode(secret.removeprefix("whsec_"))
    by_hand = base64.b64encode(hmac.new(key, b"m.1.{}", hashlib.sha256).digest()).decode()
    assert one == f"v1,{by_hand}"
