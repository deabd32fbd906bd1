"""Small models behind a real Pare: what a client is given of them, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.api_client import Api
from tests.pare_process import serving
from tests.serving import small_models
from tests.serving.seeded_deployment import ENCODER, ROWS, WRITER, seed_onnx_run
from webapp.config import InstallationSettings
from webapp.jobs.workplace import file_store
from webapp.store.database import make_engine, make_sessions, upgrade

MODELS = {"rows": ("classifier", ROWS), "writer": ("writer", WRITER), "encoder": ("encoder", ENCODER)}


def seeded_runs(tmp_path_factory, instance: Path, *names: str) -> dict[str, str]:
    """{name: id of a run} of the models of these names, in a new installation."""
    settings = InstallationSettings.load(instance)
    engine = make_engine(settings.database_url)
    upgrade(engine)
    runs = {}
    with make_sessions(engine)() as session:
        for name in names:
            make, about = MODELS[name]
            folder = getattr(small_models, make)(tmp_path_factory.mktemp(name))
            runs[name] = seed_onnx_run(session, file_store(settings), folder, name, **about).id
    engine.dispose()
    return runs


@contextmanager
def deployed_models(tmp_path_factory, *names: str) -> Iterator[dict[str, tuple[str, str]]]:
    """{name: (address, token)} of the models of these names."""
    instance = tmp_path_factory.mktemp("instance")
    runs = seeded_runs(tmp_path_factory, instance, *names)
    with serving(instance, workers="0") as pare:
        api = Api(pare.url)
        made = {name: api.post("/deployments", {"run_id": id, "name": name}) for name, id in runs.items()}
        for name in made:
            api.wait(f"/deployments/{name}", lambda row: row["state"] == "ready")
        yield {name: (each["url"], each["token"]) for name, each in made.items()}
