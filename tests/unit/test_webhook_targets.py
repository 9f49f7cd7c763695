"""Webhooks go to public addresses alone, whatever form the others are dressed in, unless the operator allows them."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.webhooks.targets import Allowed, Guard, TargetRefused, is_public

PUBLIC = "93.184.215.14"
NOBODY = Allowed.parse("")


def _guard(*answers: str, allowed: str = "") -> Guard:
    return Guard(allowed=Allowed.parse(allowed), resolver=lambda *_: answers)


def _codes(guard: Guard, url: str) -> list[str]:
    with pytest.raises(TargetRefused) as refusal:
        guard.target(url)
    assert {fault.pointer for fault in refusal.value.faults} == {"/url"}
    assert all(fault.detail for fault in refusal.value.faults)
    return [fault.code for fault in refusal.value.faults]


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"])
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # a cloud's services for its machines, at an address that is registered as public
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",  # mapped
        "::ffff:8.8.8.8",
        "::ffff:0:8.8.8.8",  # translated
        "::127.0.0.1",  # compatible
        "::8.8.8.8",
        "64:ff9b::7f00:1",  # NAT64
        "64:ff9b:1::a00:1",  # NAT64, local use
        "100::1",  # discard
        "2001::1",  # Teredo
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "2002:7f00:1::1",  # 6to4 of 127.0.0.1
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",  # a cloud's metadata
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_what_is_not_public_is_refused_as_address_and_behind_a_name(address: str) -> None:
    assert not is_public(address)
    assert _codes(_guard(address), "https://hooks.example.com/") == ["address_not_public"]
    assert _codes(_guard(PUBLIC, address), "https://hooks.example.com/") == ["address_not_public"], "one of several"


@given(st.ip_addresses(v=4))
def test_nothing_that_the_registry_calls_special_is_public(address: object) -> None:
    found = ip_address(str(address))
    if is_public(str(found)):
        assert found.is_global
        assert not found.is_multicast
        assert not found.is_reserved


@given(st.ip_addresses(v=6))
def test_nothing_that_the_registry_calls_special_is_public_in_ipv6_either(address: object) -> None:
    found = ip_address(str(address))
    if is_public(str(found)):
        assert found.is_global
        assert not found.is_multicast
        assert not found.is_reserved


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://localhost/",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
def test_the_ways_to_write_this_machine_are_refused_by_the_systems_own_resolver(url: str) -> None:
    (code,) = _codes(Guard(allowed=NOBODY), url)
    assert code in ("address_not_public", "host_not_resolved", "url_malformed")


@pytest.mark.parametrize(
    ("url", "codes"),
    [
        ("http://hooks.example.com/", ["https_required", "port_not_allowed"]),
        ("ftp://hooks.example.com/", ["https_required"]),
        ("https://user:secret@hooks.example.com/", ["userinfo_not_allowed"]),
        ("https://hooks.example.com:22/", ["port_not_allowed"]),
        ("https://hooks.example.com/#part", ["fragment_not_allowed"]),
        ("http://u@hooks.example.com:25/#x", [
            "https_required", "userinfo_not_allowed", "fragment_not_allowed", "port_not_allowed",
        ]),
        ("hooks.example.com/path", ["https_required", "url_malformed"]),
        ("https:///path", ["url_malformed"]),
        ("https://hooks.example.com:99999/", ["port_not_allowed"]),
        ("https://hooks.example.com:0/", ["port_not_allowed"]),
        ("https://hooks\x00.example.com/", ["url_malformed"]),
        ("https://xn--a.example.com/", ["url_malformed"]),  # no international name encodes to this
        ("", ["https_required", "url_malformed"]),
        ("https://h/" + "x" * 2048, ["url_too_long"]),
    ],
)  # fmt: skip
def test_every_fault_of_a_url_is_named(url: str, codes: list[str]) -> None:
    assert _codes(_guard(PUBLIC), url) == codes


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/a?b=c", "https://hooks.example.com:8443/", "https://bücher.example/"]
)
def test_a_public_host_is_a_target_at_the_addresses_it_has_now(url: str) -> None:
    target = _guard(PUBLIC, "8.8.8.8").target(url)
    assert target.addresses == (PUBLIC, "8.8.8.8")


@pytest.mark.parametrize("failure", [OSError("no such host"), UnicodeError("label too long")])
def test_a_name_without_address_is_refused(failure: Exception) -> None:
    def fails(host: str) -> Sequence[str]:
        raise failure

    assert _codes(Guard(allowed=NOBODY, resolver=fails), "https://nowhere.example/") == ["host_not_resolved"]
    assert _codes(_guard(), "https://nowhere.example/") == ["host_not_resolved"]


def test_the_answer_does_not_tell_which_inner_address_a_name_has() -> None:
    with pytest.raises(TargetRefused) as refusal:
        _guard("10.20.30.40").target("https://hooks.example.com/")
    assert "10.20.30.40" not in repr(refusal.value.faults)


@pytest.mark.parametrize(
    ("allowed", "url", "address"),
    [
        ("receiver.internal", "http://receiver.internal:5000/", "10.0.0.7"),
        ("127.0.0.1", "http://127.0.0.1:5000/", "127.0.0.1"),
        ("10.0.0.0/8, 127.0.0.0/8", "http://10.1.2.3/", "10.1.2.3"),
        ("10.0.0.0/8", "https://anything.example/", "10.1.2.3"),
        ("fd00::/8", "https://[fd00::1]:9000/", "fd00::1"),
        ("Receiver.Internal", "http://RECEIVER.internal/", "10.0.0.7"),
    ],
)
def test_what_the_operator_allows_may_be_private(allowed: str, url: str, address: str) -> None:
    assert _guard(address, allowed=allowed).target(url).addresses == (address,)


def test_allowing_a_network_allows_no_plain_http_to_names_in_it_and_no_other_address() -> None:
    guard = _guard("10.1.2.3", "192.168.0.1", allowed="10.0.0.0/8")
    assert _codes(guard, "https://anything.example/") == ["address_not_public"]
    assert "https_required" in _codes(_guard("10.1.2.3", allowed="10.0.0.0/8"), "http://anything.example/")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "host:80", "http://host"])
def test_an_allowed_entry_that_is_neither_name_nor_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        Allowed.parse(text)


def test_a_port_that_no_host_has_is_refused_even_where_all_others_are_allowed() -> None:
    assert _codes(_guard("127.0.0.1", allowed="127.0.0.1"), "http://127.0.0.1:65536/") == ["port_not_allowed"]
