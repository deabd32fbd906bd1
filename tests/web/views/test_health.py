import shutil

from sqlalchemy import create_engine

from webapp.web.extensions import db


def test_a_healthy_pare_says_so(client):
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json == {"status": "ok", "database": "ok", "store": "ok", "space": "ok", "workers": "0 alive"}


def test_a_database_that_does_not_answer_is_told(client, app, monkeypatch, tmp_path):
    broken = create_engine(f"sqlite:///{tmp_path}/no/such/folder/pare.db")
    with app.app_context():
        monkeypatch.setitem(db.sessionmaker.kw, "bind", broken)
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert "does not answer" in answer.json["database"]


def test_a_store_without_its_folder_is_told(client, settings):
    shutil.rmtree(settings.files_url)
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json["store"] != "ok"
