"""Addresses elsewhere that somebody has Pare call: which may be called.

A name is looked up and each of its addresses is held against what is allowed: public ones, and those in networks that
the operator names. Whoever then calls connects to these addresses and looks nothing up again, for a name may have
another address a moment later.
"""

from __future__ import annotations

import queue
import re
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from webapp.engine.errors import PareError, quoted, some

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST = 2000  # characters of an address
LOOKED_UP_SECONDS = 5.0
DEFAULT_PORTS = {"http": 80, "https": 443}
NEVER = tuple(  # also not where a network that is allowed holds them: what tells machines of a cloud their secrets
    ip_network(each)
    for each in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",  # Amazon
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "168.63.129.16/32",  # Azure
    )
)
NAT64 = ip_network("64:ff9b::/96")


class AddressRefused(PareError, code="address_refused", status=422):
    """The address is not one that Pare calls."""


@dataclass(frozen=True)
class CheckedAddress:
    """An address whose `addresses` (IPv4 or IPv6, as texts) were all found to be allowed."""

    scheme: str
    host: str
    port: int
    path: str  # with the query
    addresses: tuple[str, ...]


def networks_of(text: str) -> tuple[Network, ...]:
    """Networks or addresses with commas between. Raises ValueError."""
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


def target_of(url: str, allowed: Iterable[Network], field: str | None = None) -> CheckedAddress:
    """Looks the name up, within 5 seconds. Raises AddressRefused, with a sentence that says why."""
    parts, port = _parts(url, field)
    host = (parts.hostname or "").rstrip(".")
    found, allowed = _looked_up(host, port, field), tuple(allowed)
    if refused := [each for each in found if not is_allowed(each, allowed)]:
        named = f"{host} is {some([str(each) for each in refused], 3)}, which" if str(refused[0]) != host else host
        raise AddressRefused(
            f"{named} is not a public address. Only networks that the setting webhook_networks names are called "
            "beside public ones.",
            field,
        )
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    return CheckedAddress(parts.scheme, host, port, path, tuple(map(str, found)))


def is_allowed(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether it is public or in one of the networks; an IPv4 address inside of an IPv6 one counts as itself."""
    address = _inner(address)
    if any(address in network for network in NEVER):
        return False
    return _is_public(address) or any(address in network for network in allowed)


def _is_public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    local = address.is_link_local or (isinstance(address, IPv6Address) and address.is_site_local)
    return address.is_global and not (special or local)


def _inner(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _parts(url: str, field: str | None) -> tuple[SplitResult, int]:
    """The parts of the address and its port. Raises AddressRefused."""
    shown = quoted(url[:200])
    if len(url) > LONGEST:
        raise AddressRefused(f"The address has {len(url):,} characters; it may have {LONGEST:,}.", field)
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise AddressRefused(
            f"{shown} has a space or a character that no address has. Write other letters as %…, a name's as xn--….",
            field,
        )
    try:
        parts = urlsplit(url)
        port = DEFAULT_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except ValueError:
        raise AddressRefused(f"{shown} is not an address: its name or port cannot be read.", field) from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise AddressRefused(f"{shown} is not an address that begins with https:// or http:// and a name.", field)
    if "@" in parts.netloc:
        raise AddressRefused("The address has a user or a password in it (before the @); take them out.", field)
    if parts.fragment:
        raise AddressRefused("The address has a part after #, which is never sent; take it out.", field)
    return parts, port


def _looked_up(host: str, port: int, field: str | None) -> list[Address]:
    """Every address of the name. Raises AddressRefused."""
    found: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:  # has no limit of its own
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.put([str(row[4][0]) for row in rows])
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        told = found.get(timeout=LOOKED_UP_SECONDS)
    except queue.Empty:
        raise AddressRefused(
            f"{quoted(host)} could not be looked up within {LOOKED_UP_SECONDS:g} seconds. Try again later.", field
        ) from None
    if isinstance(told, Exception) or not told:
        raise AddressRefused(f"No address of the name {quoted(host)} is known. Is it spelled right?", field)
    return [ip_address(each.partition("%")[0]) for each in dict.fromkeys(told)]
