"""Where webhooks may go: public addresses over https, and what the operator allows beside them.

A name is resolved once for each delivery, every address it stands for is judged, and the connection goes to one of
those very addresses (`service.webhooks.connection`): a name that answers differently a second time gains nothing.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import httpx

from service.errors import Fault

Address = str
Resolver = Callable[[str], Sequence[Address]]
Network = IPv4Network | IPv6Network
PORTS = frozenset({443, 8443})
_EVERY_PORT = range(1, 65_536)
MAX_URL = 2048
MAX_ADDRESSES = 4

# Globally routed unicast is handed out of this block alone; mapped, compatible and NAT64 forms lie outside of it.
_UNICAST6 = IPv6Network("2000::/3")
_NOT_PUBLIC6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # IETF protocol assignments, Teredo among them (RFC 2928, RFC 4380)
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4: an IPv4 address inside (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_NOT_PUBLIC4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared behind a carrier's NAT (RFC 6598)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's services for its machines, secrets among them: not told apart by any registry
        "169.254.0.0/16",  # link-local, cloud metadata among them (RFC 3927)
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved and broadcast (RFC 1112)
    )
)


class TargetRefused(Exception):
    """The address may not be called; ``faults`` says why."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].code)
        self.faults = list(faults)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place that may be called: at one of ``addresses``, and nowhere else."""

    url: httpx.URL
    addresses: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What the operator allows although it is not public: hosts by name, and networks."""

    names: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """Read names and networks separated by commas. Raises ValueError for a malformed network."""
        names, networks = set[str](), list[Network]()
        for part in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ip_network(part))
            except ValueError:
                if "/" in part or ":" in part:
                    raise ValueError(f"{part!r} is neither a host's name nor a network") from None
                names.add(part)
        return cls(names=frozenset(names), networks=tuple(networks))

    def has(self, address: Address) -> bool:
        found = ip_address(address)
        return any(found in network for network in self.networks if network.version == found.version)

    def names_host(self, host: str) -> bool:
        """Say whether the host itself is listed, by its name or by its address."""
        try:
            return self.has(host)
        except ValueError:
            return host in self.names


def is_public(address: Address) -> bool:
    """Say whether the address is unicast, routed globally, and holds no other address inside."""
    found = ip_address(address)
    if isinstance(found, IPv4Address):
        return not any(found in block for block in _NOT_PUBLIC4)
    return found in _UNICAST6 and not any(found in block for block in _NOT_PUBLIC6)


def resolve(host: str) -> list[Address]:
    """Return the addresses the system knows for a host. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Judges where a webhook points."""

    allowed: Allowed
    resolver: Resolver = resolve

    def target(self, text: str) -> Target:
        """Return where the URL leads, its name resolved now. Raises TargetRefused with every fault."""
        url = _parsed(text)
        trusted = self.allowed.names_host(url.host.lower())
        faults = list(_faults(url, trusted=trusted))
        if not url.host:
            raise TargetRefused(faults)
        addresses, more = self._addresses(url, trusted=trusted)
        if faults + more:
            raise TargetRefused(faults + more)
        return Target(url=url, addresses=tuple(addresses[:MAX_ADDRESSES]))

    def _addresses(self, url: httpx.URL, *, trusted: bool) -> tuple[Sequence[Address], list[Fault]]:
        try:
            found = self.resolver(url.raw_host.decode("ascii"))
        except (OSError, UnicodeError):
            found = []
        if not found:
            return [], [_fault("host_not_resolved", "The host's name has no address now; check how it is spelt.")]
        if trusted or all(is_public(each) or self.allowed.has(each) for each in found):
            return found, []
        # The address itself is not told: the answer would be a map of the inner network.
        detail = (
            "The host has an address that is not public (private, loopback, link-local, multicast, reserved, or one "
            "inside another). Name a public host, or have the operator list it in UNLEARN_WEBHOOK_ALLOWED_HOSTS."
        )
        return [], [_fault("address_not_public", detail)]


def _parsed(text: str) -> httpx.URL:
    if len(text) > MAX_URL:
        raise TargetRefused([_fault("url_too_long", f"The URL is longer than {MAX_URL} characters.")])
    try:
        url = httpx.URL(text)
        url.host  # noqa: B018 - decoding an international name is what fails for one that is not valid
    except (httpx.InvalidURL, ValueError):
        raise TargetRefused(
            [_fault("url_malformed", "This is not a URL; send one such as https://host/path.")]
        ) from None
    return url


def _faults(url: httpx.URL, *, trusted: bool) -> Iterator[Fault]:
    if url.scheme not in ("https", "http"):
        yield _fault("https_required", "Webhooks go over https.")
    elif url.scheme == "http" and not trusted:
        yield _fault("https_required", "Webhooks go over https; plain http is for hosts the operator allows alone.")
    if not url.host:
        yield _fault("url_malformed", "The URL names no host.")
    if url.userinfo:
        yield _fault(
            "userinfo_not_allowed", "The URL holds a user or password; the signature is what proves the sender."
        )
    if url.fragment:
        yield _fault("fragment_not_allowed", "The URL has a fragment, which is never sent; leave it out.")
    if _port(url) not in (_EVERY_PORT if trusted else PORTS):
        yield _fault("port_not_allowed", f"Use one of the ports {', '.join(map(str, sorted(PORTS)))}.")


def _port(url: httpx.URL) -> int:
    return (80 if url.scheme == "http" else 443) if url.port is None else url.port


def _fault(code: str, detail: str) -> Fault:
    return Fault("/url", code, None, detail)
