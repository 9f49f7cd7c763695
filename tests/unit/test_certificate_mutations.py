"""Ten thousand random mutations of a certificate and its weights: none is accepted where the trusted key is pinned."""

import base64
import copy
import json
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rfc8785

from service.evidence import bundle, verify
from service.evidence.verify import Refused, TrustedKey
from tests import certificate_cases as cases

MUTATIONS = 10_000
OURS, THEIRS = cases.key(1), cases.key(2)
PIN = [TrustedKey(pin=OURS.public_key)]
RAW = cases.made()
BUNDLE = json.loads(RAW)
OTHERS = [json.loads(cases.made(request="req_2")), json.loads(cases.made(request="req_3", model=None))]
FORGED = json.loads(cases.made(signer=THEIRS))
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2**53,
    0.5,
    "",
    "x",
    "0" * 64,
    "2020-01-01T00:00:00Z",
    [],
    {},
    [0],
    {"a": 1},
)
Mutator = Callable[[random.Random], bytes]


def flip_a_bit(rng: random.Random) -> bytes:
    return _flipped(RAW, rng)


def change_some_bytes(rng: random.Random) -> bytes:
    found = bytearray(RAW)
    for _ in range(rng.randint(1, 4)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def insert_or_repeat_bytes(rng: random.Random) -> bytes:
    place, length = rng.randrange(len(RAW)), rng.randint(1, 40)
    more = RAW[place : place + length] if rng.random() < 0.5 else rng.randbytes(length)
    return RAW[:place] + more + RAW[place:]


def truncate(rng: random.Random) -> bytes:
    return RAW[: rng.randrange(len(RAW))]


def cut_out_bytes(rng: random.Random) -> bytes:
    place = rng.randrange(len(RAW))
    return RAW[:place] + RAW[place + rng.randint(1, 40) :]


def edit_the_bundle(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    _edit(document, rng)
    return _bytes(document)


def edit_a_statement(rng: random.Random) -> bytes:
    """The signature stays the old one."""
    document = copy.deepcopy(BUNDLE)
    envelope = document["envelopes"][rng.choice(list(verify.PREDICATES))]
    envelope["payload"] = base64.b64encode(_edited_statement(envelope, rng)).decode()
    return _bytes(document)


def sign_an_edited_statement_with_another_key(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    part = rng.choice(list(verify.PREDICATES))
    payload = _edited_statement(document["envelopes"][part], rng)
    forged = bundle.envelope(payload, THEIRS)
    if rng.random() < 0.5:
        forged["signatures"][0]["keyid"] = cases.sha(OURS.public_key)
    document["envelopes"][part] = forged
    if rng.random() < 0.5:
        document["keys"].append(FORGED["keys"][0])
    return _bytes(document)


def sign_everything_with_another_key(rng: random.Random) -> bytes:
    document = copy.deepcopy(FORGED)
    if rng.random() < 0.3:
        document["keys"] = copy.deepcopy(BUNDLE["keys"])
    elif rng.random() < 0.5:
        document["keys"][0]["key_id"] = BUNDLE["keys"][0]["key_id"]
    elif rng.random() < 0.5:
        document["keys"] += BUNDLE["keys"]
    return _bytes(document)


def swap_the_checkpoint(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    document["log"]["checkpoint"] = rng.choice([*OTHERS, FORGED])["log"]["checkpoint"]
    return _bytes(document)


def swap_log_or_keys(rng: random.Random) -> bytes:
    document, part = copy.deepcopy(BUNDLE), rng.choice(["log", "keys"])
    document[part] = rng.choice([*OTHERS, FORGED])[part]
    return _bytes(document)


def reorder_the_entries(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    rng.shuffle(document["log"]["entries"])
    return _bytes(document)


def drop_or_repeat_entries(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    entries = document["log"]["entries"]
    place = rng.randrange(len(entries))
    document["log"]["entries"] = rng.choice(
        [entries[:place], entries[place + 1 :], [*entries, entries[place]], [*entries[:place], *entries[place + 1 :]]]
    )
    return _bytes(document)


def exchange_proofs(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    one, other = rng.sample(document["log"]["entries"], 2)
    one["proof"], other["proof"] = other["proof"], one["proof"]
    return _bytes(document)


def shorten_or_lengthen_a_proof(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    proof = rng.choice(document["log"]["entries"])["proof"]
    if rng.random() < 0.5:
        proof.pop(rng.randrange(len(proof)))
    else:
        proof.insert(rng.randrange(len(proof) + 1), rng.choice(proof))
    return _bytes(document)


def take_another_requests_envelope(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    parts = list(verify.PREDICATES)
    for part in rng.sample(parts, rng.randint(1, len(parts))):
        document["envelopes"][part] = rng.choice(OTHERS)["envelopes"][part]
    return _bytes(document)


def exchange_envelopes(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    one, other = rng.sample(list(verify.PREDICATES), 2)
    envelopes = document["envelopes"]
    envelopes[one], envelopes[other] = envelopes[other], envelopes[one]
    return _bytes(document)


def change_the_keys_dates(rng: random.Random) -> bytes:
    document = copy.deepcopy(BUNDLE)
    name = rng.choice(["not_before", "not_after", "revoked_at"])
    document["keys"][0][name] = f"20{rng.randint(10, 99)}-01-01T00:00:00Z"
    return _bytes(document)


MUTATORS: tuple[Mutator, ...] = (
    flip_a_bit, change_some_bytes, insert_or_repeat_bytes, truncate, cut_out_bytes, edit_the_bundle, edit_a_statement,
    sign_an_edited_statement_with_another_key, sign_everything_with_another_key, swap_the_checkpoint, swap_log_or_keys,
    reorder_the_entries, drop_or_repeat_entries, exchange_proofs, shorten_or_lengthen_a_proof,
    take_another_requests_envelope, exchange_envelopes, change_the_keys_dates,
)  # fmt: skip


def _flipped(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]


def _bytes(document: Any) -> bytes:
    try:
        return rfc8785.dumps(document)
    except rfc8785.IntegerDomainError:
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _edited_statement(envelope: Any, rng: random.Random) -> bytes:
    statement = json.loads(base64.b64decode(envelope["payload"]))
    _edit(statement, rng)
    return _bytes(statement)


def _edit(document: Any, rng: random.Random) -> None:
    """Replace, remove or exchange one member, at any depth."""
    holder, name = rng.choice(list(_members(document)))
    match rng.randrange(4):
        case 0:
            del holder[name]
        case 1:
            holder[name] = copy.deepcopy(rng.choice(VALUES))
        case 2 if isinstance(holder[name], str) and holder[name]:
            text = holder[name]
            place = rng.randrange(len(text))
            holder[name] = text[:place] + rng.choice("0123456789abcdefZ=+/ \n") + text[place + 1 :]
        case _:
            other, there = rng.choice(list(_members(document)))
            holder[name] = copy.deepcopy(other[there])


def _members(node: Any) -> Iterator[tuple[Any, Any]]:
    names: Any = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for name in names:
        yield node, name
        yield from _members(node[name])


def _accepted(raw: bytes, weights: bytes) -> bool:
    try:
        return verify.verify(raw, trusted=PIN, weights={"weights": cases.sha(weights)}).trusted
    except Refused:
        return False


def test_the_unchanged_certificate_is_accepted() -> None:
    assert _accepted(RAW, cases.WEIGHTS)


@pytest.mark.parametrize("mutate", MUTATORS)
def test_the_mutation_changes_something(mutate: Mutator) -> None:
    """A mutation that left the bytes as they are would show nothing."""
    rng = random.Random(0)
    assert sum(mutate(rng) != RAW for _ in range(20)) >= 10


def test_no_mutation_of_a_certificate_or_its_weights_is_accepted() -> None:
    seed = secrets.randbits(32)
    rng, tried = random.Random(seed), Counter[str]()
    while tried.total() < MUTATIONS:
        if rng.random() < 0.05:
            kind, raw, weights = "weights", RAW, _flipped(cases.WEIGHTS, rng)
        else:
            mutate = rng.choice(MUTATORS)
            kind, raw, weights = mutate.__name__, mutate(rng), cases.WEIGHTS
            if raw == RAW:
                continue
        tried[kind] += 1
        assert not _accepted(raw, weights), (seed, kind, raw)
    assert len(tried) == len(MUTATORS) + 1
