"""A share link shows what it was made for, and nothing else, until it is revoked."""

import re

import pytest
from sqlalchemy import select

from tests.web.views.seeded import CONTENT
from webapp import create_app
from webapp.store.models import Artifact, RunTag, Share


@pytest.fixture
def token(client, run):
    return client.post(f"/api/v1/runs/{run.id}/shares").json["token"]


@pytest.fixture
def comparison(client, seed):
    runs = [seed(name="first"), seed(name="second", size_bytes=3000)]
    body = {"run_ids": [each.id for each in runs], "sort": "size_bytes"}
    return client.post("/api/v1/compare/shares", json=body).json["token"], runs


def foreign_links(page, token):
    """Addresses in the page that lead anywhere but to this share and to our own css and js."""
    allowed = ("#", f"/shared/{token}", "/static", "/bootstrap")
    return [link for link in re.findall(r'(?:href|action|src)="([^"]*)', page) if not link.startswith(allowed)]


def test_a_link_opens_without_account_and_shows_the_run(client, token, run):
    page = client.get(f"/shared/{token}").text
    assert run.name in page
    assert run.receipt["verdict"]["sentence"] in page
    assert client.get(f"/shared/{token}/receipt").status_code == 200
    assert client.get(f"/shared/{token}/receipt.json").json == run.receipt
    assert client.get(f"/shared/{token}/artifacts/model.safetensors").data == CONTENT


def test_what_holds_samples_of_the_dataset_is_not_shared(client, session, token, run):
    same = {"digest": run.artifacts[0].digest, "size_bytes": run.artifacts[0].size_bytes}
    session.add(Artifact(run_id=run.id, name="samples.parquet", format="samples", **same))
    session.commit()
    assert client.get(f"/runs/{run.id}/artifacts/samples.parquet").status_code == 200
    assert "samples.parquet" in client.get(f"/runs/{run.id}").text
    assert "samples.parquet" not in client.get(f"/shared/{token}").text
    assert client.get(f"/shared/{token}/artifacts/samples.parquet").status_code == 404


@pytest.mark.parametrize("path", ["", "/receipt"])
def test_it_shows_nothing_else(client, token, run, path):
    answer = client.get(f"/shared/{token}{path}")
    assert foreign_links(answer.text, token) == []
    for hidden in (run.id, run.checkpoint_id, run.dataset_id):
        assert hidden not in answer.text
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "noindex" in answer.headers["X-Robots-Tag"]
    assert '<meta name="robots" content="noindex' in answer.text


def test_a_shared_comparison_shows_its_runs_by_number(client, comparison):
    token, runs = comparison
    page = client.get(f"/shared/{token}").text
    assert "first" in page
    assert "second" in page
    for run in runs:
        for hidden in (run.id, run.checkpoint_id, run.dataset_id):
            assert hidden not in page
    assert foreign_links(page, token) == []
    assert client.get(f"/shared/{token}/compare.csv").text.splitlines()[1].split(",")[1] == "second"


def test_a_shared_comparison_can_be_sorted_and_has_no_single_run(client, comparison):
    token, _ = comparison
    rows = client.get(f"/shared/{token}/compare.csv?sort=size_bytes&order=desc").text.splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["first", "second"]
    for path in ("/receipt", "/receipt.json", "/artifacts/model.safetensors"):
        assert client.get(f"/shared/{token}{path}").status_code == 404


def test_a_shared_comparison_keeps_its_colour_and_axes_and_leads_nowhere(client, session, comparison):
    _, runs = comparison
    session.add(RunTag(run_id=runs[0].id, tag="secret-plan"))
    session.commit()
    body = {"run_ids": [each.id for each in runs], "colour": "technique", "y": "size_bytes", "x": "metric.accuracy"}
    token = client.post("/api/v1/compare/shares", json=body).json["token"]
    page = client.get(f"/shared/{token}").text
    assert "Size against accuracy" in page.replace("File size", "Size")
    assert '"meta"' not in page
    assert foreign_links(page, token) == []
    assert "secret-plan" not in page + client.get(f"/shared/{token}?colour=tag").text
    assert "secret-plan" not in client.get(f"/shared/{token}/compare.csv").text
    tagged = client.post("/api/v1/compare/shares", json={**body, "colour": "tag"}).json["token"]
    assert "secret-plan" in client.get(f"/shared/{tagged}").text  # whoever shared it showed it


def test_a_share_outlives_the_axis_that_it_was_drawn_by(client, session, comparison):
    token, _ = comparison
    share = session.scalars(select(Share)).one()
    share.view = {**share.view, "x": "setting.gone.bits", "metric": "bleu"}
    session.commit()
    assert client.get(f"/shared/{token}").status_code == 200


@pytest.mark.parametrize("asked", ["?metric=zzz", "?x=zzz", "?y=zzz", "?scale=zzz", "/compare.csv?metric=zzz"])
def test_what_a_shared_comparison_has_not_is_said_without_a_way_out(client, comparison, asked):
    token, _ = comparison
    path, _, query = asked.partition("?")
    answer = client.get(f"/shared/{token}{path}?{query}")
    assert answer.status_code == 400
    assert "zzz" in answer.text
    assert foreign_links(answer.text, token) == []
    assert f'href="/shared/{token}"' in answer.text
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_unknown_and_revoked_are_the_same_page(client, token, run):
    assert client.delete(f"/api/v1/shares/{token}").status_code == 204
    unknown, revoked = client.get(f"/shared/{'x' * 32}"), client.get(f"/shared/{token}")
    assert unknown.status_code == revoked.status_code == 404
    assert unknown.text == revoked.text
    for path in ("/receipt", "/receipt.json", "/artifacts/model.safetensors"):
        assert client.get(f"/shared/{token}{path}").status_code == 404


def test_links_are_made_and_revoked_by_forms(client, run):
    answer = client.post(f"/runs/{run.id}/shares")
    assert answer.status_code == 302
    link = client.get(f"/api/v1/runs/{run.id}/shares").json["items"][0]
    assert client.get(f"/shared/{link['token']}").status_code == 200
    assert client.post(f"/shares/{link['token']}/revoke").status_code == 302
    assert client.get(f"/shared/{link['token']}").status_code == 404
    assert client.get(f"/api/v1/runs/{run.id}/shares").json["items"] == []


def test_a_comparison_is_shared_from_its_page(client, seed):
    runs = [seed(), seed()]
    answer = client.post("/compare/shares", data={"run": [run.id for run in runs], "sort": "name"})
    assert answer.status_code == 302
    page = client.get(answer.location.split("#")[0]).text
    token = re.search(r"/shared/([\w-]+)", page).group(1)
    assert client.get(f"/shared/{token}").status_code == 200
    assert "#share" in client.post(f"/shares/{token}/revoke").location


def test_revoking_all_links_of_a_run(client, run, token):
    client.post(f"/api/v1/runs/{run.id}/shares")
    assert client.delete(f"/api/v1/runs/{run.id}/shares").status_code == 204
    assert client.get(f"/shared/{token}").status_code == 404


def test_a_deleted_run_takes_its_links_with_it(client, run, token):
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    assert client.get(f"/shared/{token}").status_code == 404


def test_a_shared_comparison_says_which_run_is_gone(client, comparison):
    token, (first, _) = comparison
    assert client.delete(f"/api/v1/runs/{first.id}").status_code == 204
    page = client.get(f"/shared/{token}").text
    assert "Deleted since this comparison was shared, and no longer in it: first." in page
    assert "second" in page


def test_the_database_alone_opens_no_link(client, session, settings, token, run):
    """The token is shown again on the run's page, and is in no column."""
    (share,) = session.scalars(select(Share))
    assert token not in str([getattr(share, column.key) for column in Share.__table__.columns])
    assert f"/shared/{token}" in client.get(f"/runs/{run.id}").text
    for guessed in (
        share.id,
        share.id + "x" * 24,
        token[:-1],
        token + "x",
        token[:-1] + ("a" if token[-1] != "a" else "b"),
    ):
        assert client.get(f"/shared/{guessed}").status_code == 404
    assert client.get(f"/shared/{token}").status_code == 200
    other = create_app({"SETTINGS": settings.model_copy(update={"secret_key": "another"}), "TESTING": True})
    assert other.test_client().get(f"/shared/{token}").status_code == 404
    other.extensions["pare"].jobs.close()
