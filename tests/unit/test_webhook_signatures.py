"""Signatures verify with the standard's own library and with an HMAC written from its text; secrets are sealed."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from service.webhooks import signatures

MASTER = b"m" * 32


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    # Standard Webhooks, reference implementations' test vector.
    found = signatures.headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        moment=datetime.fromtimestamp(1614265330, UTC),
        body=b'{"test": 2432232314}',
    )
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(max_size=200))
def test_what_is_signed_verifies_under_each_secret_and_under_no_other(text: str) -> None:
    body, pair = text.encode(errors="replace"), [signatures.new_secret(), signatures.new_secret()]
    found = signatures.headers(pair, message_id="evt_1", moment=datetime.now(UTC), body=body)
    assert [each.partition(",")[0] for each in found["webhook-signature"].split(" ")] == ["v1", "v1"]
    for secret, signed in zip(pair, found["webhook-signature"].split(" "), strict=True):
        Webhook(secret).verify(body, found, json_parse=False)
        content = b"evt_1." + found["webhook-timestamp"].encode() + b"." + body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        assert signed == "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(signatures.new_secret()).verify(body, found, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(pair[0]).verify(body + b" ", found, json_parse=False)


def test_made_secrets_differ_and_have_the_standards_form() -> None:
    made = {signatures.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(signatures.is_secret(secret) for secret in made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec_short",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        base64.b64encode(b"x" * 32).decode(),
        "whsec_" + "ä" * 32,
        "whsec_" + "-_" * 20,
        "whpk_" + base64.b64encode(b"x" * 32).decode(),
    ],
)
def test_a_text_of_another_form_is_no_secret(text: str) -> None:
    assert not signatures.is_secret(text)


@pytest.mark.parametrize("count", [24, 64])
def test_the_bounds_of_a_secret_are_within(count: int) -> None:
    assert signatures.is_secret("whsec_" + base64.b64encode(b"x" * count).decode())


def test_a_sealed_secret_opens_for_its_endpoint_and_master_key_alone() -> None:
    secret = signatures.new_secret()
    sealed = signatures.seal(MASTER, "whk_1", secret)
    assert signatures.unseal(MASTER, "whk_1", sealed) == secret
    assert secret.encode() not in sealed
    assert sealed != signatures.seal(MASTER, "whk_1", secret)
    for master, endpoint, text in (
        (b"n" * 32, "whk_1", sealed),
        (MASTER, "whk_2", sealed),
        (MASTER, "whk_1", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (MASTER, "whk_1", b""),
    ):
        with pytest.raises(signatures.SecretUnreadable):
            signatures.unseal(master, endpoint, text)
