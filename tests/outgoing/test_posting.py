"""A POST goes to the address that was looked at, ends in time, reads little, and follows nothing."""

import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.webhook_receiver import drip, receiving
from webapp.outgoing.addresses import CheckedAddress, networks_of, target_of
from webapp.outgoing.posting import PostFailed, post

HERE = networks_of("127.0.0.0/8")


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def test_it_arrives_whole_with_its_headers_and_the_name_as_host(receiver):
    port = receiver.url.rpartition(":")[2]
    target = CheckedAddress("http", "receiver.example", int(port), "/hook?a=1", ("127.0.0.1",))
    assert post(target, {"webhook-id": "7"}, "ä".encode()) == (200, "no")
    (message,) = receiver.got
    assert (message.path, message.body.decode()) == ("/hook?a=1", "ä")
    assert (message.headers["host"], message.headers["webhook-id"]) == (f"receiver.example:{port}", "7")


def test_a_name_that_is_another_address_a_moment_later_is_not_looked_up_again(receiver, monkeypatch):
    target = target_of(receiver.url.replace("127.0.0.1", "localhost"), HERE)
    real = socket.getaddrinfo

    def numbers_only(host, *given, **more):
        ip_address(host)  # raises ValueError for a name
        return real(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", numbers_only)
    monkeypatch.setattr(socket, "gethostbyname", numbers_only)
    assert post(target, {}, b"{}")[0] == 200


def test_the_next_address_is_tried_where_one_does_not_answer(receiver):
    port = int(receiver.url.rpartition(":")[2])
    assert post(CheckedAddress("http", "r.example", port, "/", ("127.0.0.9", "127.0.0.1")), {}, b"")[0] == 200
    assert len(receiver.got) == 1


def test_a_redirect_is_an_answer_and_is_not_followed(receiver):
    receiver.answers, receiver.location = [302], f"{receiver.url}/elsewhere"
    assert post(target_of(f"{receiver.url}/hook", HERE), {}, b"{}")[0] == 302
    assert [message.path for message in receiver.got] == ["/hook"]


def test_of_a_long_answer_the_beginning_is_read(receiver):
    receiver.said = b"x" * 50_000_000
    status, text = post(target_of(receiver.url, HERE), {}, b"{}")
    assert (status, len(text)) == (200, 500)


@pytest.mark.parametrize("way", [lambda handler: time.sleep(5), partial(drip, 5)], ids=["silent", "byte by byte"])
def test_one_who_is_slow_is_left_after_the_time(receiver, way):
    receiver.slow = way
    began = time.monotonic()
    with pytest.raises(PostFailed, match=r"127\.0\.0\.1 did not answer within 0\.5 seconds"):
        post(target_of(receiver.url, HERE), {}, b"{}", seconds=0.5)
    assert time.monotonic() - began < 3


def test_nobody_there_and_no_http_are_sentences():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(PostFailed, match=f"Nothing answers at 127.0.0.1, port {port}"):
        post(target_of(f"http://127.0.0.1:{port}/", HERE), {}, b"")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()

        threading.Thread(target=speak, daemon=True).start()
        with pytest.raises(PostFailed, match="is no HTTP"):
            post(target_of(f"http://127.0.0.1:{listener.getsockname()[1]}/", HERE), {}, b"")


@pytest.fixture
def certificate(tmp_path):
    """Of receiver.example, by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("receiver.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "receiver.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secure(certificate):
    with receiving(certificate) as found:
        yield found


def test_a_secure_one_is_checked_by_its_name_although_its_address_is_called(secure, certificate, monkeypatch):
    port = int(secure.url.rpartition(":")[2])
    with pytest.raises(PostFailed, match=r"certificate of receiver\.example is not trusted"):
        post(CheckedAddress("https", "receiver.example", port, "/", ("127.0.0.1",)), {}, b"{}")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert post(CheckedAddress("https", "receiver.example", port, "/", ("127.0.0.1",)), {}, b"{}")[0] == 200
    with pytest.raises(PostFailed, match=r"certificate of other\.example is not trusted"):
        post(CheckedAddress("https", "other.example", port, "/", ("127.0.0.1",)), {}, b"{}")
    assert len(secure.got) == 1


def test_a_handshake_that_never_ends_is_left_after_the_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(PostFailed, match="did not answer within"):
            post(CheckedAddress("https", "receiver.example", port, "/", ("127.0.0.1",)), {}, b"{}", seconds=0.5)
        assert time.monotonic() - began < 3
