"""Which addresses are called: public ones, and those in networks that the operator names; each one of a name counts."""

import socket
import threading
from ipaddress import IPv4Address

import pytest

from webapp.outgoing import addresses
from webapp.outgoing.addresses import AddressRefused, is_allowed, networks_of, target_of

# fmt: off
PRIVATE = [
    "127.0.0.1", "127.8.9.1", str(IPv4Address(0)), "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.127.255.254", "169.254.169.254", "169.254.170.2", "192.0.0.192", "198.18.0.1", "192.0.2.1",
    "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fd12:3456::1", "ff02::1", "ff0e::1", "100::1", "2001:db8::1",
]
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.215.14", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1",
    "192.167.255.255", "223.255.255.254", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8",
    "64:ff9b::808:808", "2002:808:808::",
]
# fmt: on


@pytest.fixture
def known(monkeypatch):
    """What names are, in place of what a resolver says."""
    names: dict[str, list[str]] = {}

    def look_up(host, port, **_):
        if host not in names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


@pytest.mark.parametrize("address", PRIVATE)
def test_no_address_that_is_not_public_is_called(known, address):
    known["receiver.example"] = ["93.184.215.14", address]  # one of several is enough
    with pytest.raises(
        AddressRefused, match=r"receiver\.example is .* not a public address.*webhook_networks"
    ) as refused:
        target_of("https://receiver.example/hook", ())
    assert refused.value.code == "address_refused"


@pytest.mark.parametrize("address", PUBLIC)
def test_public_ones_are(known, address):
    known["receiver.example"] = [address]
    target = target_of("https://receiver.example/hook?key=1&b", ())
    assert target.addresses == (str(addresses.ip_address(address)),)
    assert (target.scheme, target.host, target.port, target.path) == ("https", "receiver.example", 443, "/hook?key=1&b")


def test_networks_that_the_operator_names_are_called_too_but_never_what_tells_a_cloud_s_secrets():
    allowed = networks_of("10.0.0.0/8, 127.0.0.1, fd00::/8,169.254.0.0/16")
    ask = {each: is_allowed(addresses.ip_address(each), allowed) for each in PRIVATE}
    assert sorted(each for each, said in ask.items() if said) == sorted(
        [
            "127.0.0.1",
            "10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "fd12:3456::1",
        ]
    )
    with pytest.raises(ValueError, match="bits set"):
        networks_of("10.0.0.1/8")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://receiver.example/", "begins with https"),
        ("file:///etc/passwd", "begins with https"),
        ("javascript:alert(1)", "begins with https"),
        ("receiver.example/hook", "begins with https"),
        ("http:///hook", "and a name"),
        ("", "has a space or a character"),
        ("https://user:secret@receiver.example/", "a user or a password"),
        ("https://user@receiver.example/", "a user or a password"),
        ("https://receiver.example/ hook", "has a space"),
        ("https://receiver.example/\r\nX: y", "has a space"),
        ("https://receiver.example\\@127.0.0.1/", "has a space or a character"),
        ("https://bücher.example/", "xn--"),
        ("https://receiver.example:99999/", "port cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://receiver.example/#here", "after #"),
        ("https://receiver.example/" + "a" * 2000, "it may have 2,000"),
        ("https://nowhere.example/", "No address of the name"),
    ],
)
def test_what_is_no_address_gets_a_sentence_and_is_not_looked_up(known, url, says):
    known["receiver.example"] = ["93.184.215.14"]
    with pytest.raises(AddressRefused, match=says) as refused:
        target_of(url, (), "url")
    assert refused.value.field == "url"
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_this_machine_is_not_called_however_it_is_written(host):
    with pytest.raises(AddressRefused, match="not a public address"):
        target_of(f"http://{host}/", ())


def test_a_name_that_nobody_answers_for_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(addresses, "LOOKED_UP_SECONDS", 0.05)
    over = threading.Event()

    def silent(*_, **__):
        over.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with pytest.raises(AddressRefused, match="could not be looked up within"):
        target_of("https://receiver.example/", ())
    over.set()
