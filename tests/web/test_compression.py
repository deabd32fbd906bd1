"""Pages, data and our own files are packed for who can unpack them; what is downloaded or streamed is not."""

import gzip

import pytest

from webapp import create_app
from webapp.config import InstallationSettings

PACKED = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    settings = InstallationSettings.load(tmp_path_factory.mktemp("instance"), min_free_bytes=0)
    app = create_app({"SETTINGS": settings, "TESTING": True})
    yield app.test_client()
    app.extensions["pare"].jobs.close()


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/techniques",
        "/api/v1/openapi.json",
        "/static/pare.css",
        "/bootstrap/static/css/bootstrap.min.css",
    ],
)
def test_what_is_unpacked_is_what_others_get(client, address):
    with client.get(address) as plain, client.get(address, headers=PACKED) as packed:
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in plain.vary
        assert "Accept-Encoding" in packed.vary
        assert packed.content_length == len(packed.data) < len(plain.data) / 2
        if "csrf" not in plain.text:
            assert gzip.decompress(packed.data) == plain.data


def test_a_file_that_the_browser_has_is_not_sent_again_packed_or_not(client):
    tags = []
    for headers in ({}, PACKED):
        with client.get("/static/pare.css", headers=headers) as first:
            tags.append(first.headers["ETag"])
        with client.get("/static/pare.css", headers=headers | {"If-None-Match": tags[-1]}) as again:
            assert (again.status_code, again.data) == (304, b"")
            assert again.headers["ETag"] == tags[-1]
            assert "Accept-Encoding" in again.vary
    assert tags[0] != tags[1]
    with client.get("/static/pare.css", headers={"If-None-Match": tags[1]}) as other:
        assert other.status_code == 200


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("/techniques", {"Accept-Encoding": "gzip;q=0"}),
        ("/techniques", PACKED | {"Sec-Fetch-Site": "cross-site"}),  # its length would tell what is secret in it
        ("/static/pare.css", PACKED | {"Range": "bytes=0-99"}),
        ("/healthz", PACKED),  # small
    ],
)
def test_what_is_better_sent_as_it_is(client, address, headers):
    with client.get(address, headers=headers) as answer:
        assert answer.status_code in (200, 206)
        assert "Content-Encoding" not in answer.headers


def test_what_does_not_change_is_kept(client):
    for address in ("/static/pare.css?v=1", "/bootstrap/static/css/bootstrap.min.css"):
        with client.get(address, headers=PACKED) as answer:
            assert "max-age" in answer.headers["Cache-Control"]
