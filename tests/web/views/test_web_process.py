"""The web process stays small: it knows of tensors and architectures, and imports nothing that computes with them."""

import json
import os
import subprocess
import sys

import pytest

from tests.patience import PATIENCE_SECONDS
from tests.web.views.seeded import seed_checkpoint, seed_dataset, seed_run
from webapp.engine.techniques import techniques
from webapp.store.models import Checkpoint, UploadState

COMPUTES = {"torch", "torch_pruning", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "scipy", "gguf"}
SELDOM = {"alembic", "cryptography", "tokenizers", "huggingface_hub", "tensorflow", "sympy", "pandas", "pyarrow"}
MOST_MB = 135  # of memory of its own: pages of files are shared with other processes, and differ between machines
NARROWER, STUDENT = ("structured_pruning", {"round_to": 1}), ("smaller_student", {"round_to": 1})
DROPPED = ("layer_drop", {"blocks": 1})
RECIPES = {
    "cnn": [[NARROWER], [STUDENT], [("gptq", {})]],
    "llama": [[DROPPED], [NARROWER, NARROWER], [STUDENT], [("low_rank", {}), ("weight_quantization", {})]],
    "vit": [[STUDENT, ("magnitude_pruning", {})], [DROPPED, ("cast", {})]],
}
PROCESS = """
import ctypes, json, sys
from pathlib import Path

NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE: with them a machine counts up to 2 MB for each piece begun
ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0)

from webapp import create_app
from webapp.config import InstallationSettings

app = create_app({"SETTINGS": InstallationSettings.load(Path(sys.argv[1])), "TESTING": True, "WTF_CSRF_ENABLED": False})
client, answers = app.test_client(), {}
bare = [rule.rule for rule in app.url_map.iter_rules() if "GET" in rule.methods and not rule.arguments]
for address in [*bare, *json.loads(sys.argv[2])]:
    answers[address] = client.get(address).status_code
predictions = [client.post("/api/v1/recipes/predict", json=body) for body in json.loads(sys.argv[3])]
others = [client.post("/api/v1/recipes/predict", json=body).status_code for body in json.loads(sys.argv[4])]
own = Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]
modules = sorted({name.partition(".")[0] for name in sys.modules})
told = {"answers": answers, "predictions": [each.json for each in predictions], "others": others}
print(json.dumps({**told, "modules": modules, "own_mb": int(own) / 1024}))
"""


@pytest.fixture
def process(zoo, session, files, settings, tmp_path):
    """What a process of its own says after every page, and a prediction with each structural step."""
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session)
    run = seed_run(session, files, tmp_path, checkpoint, dataset)
    addresses, bodies = [f"/runs/{run.id}", f"/runs/{run.id}/receipt", f"/compare?run={run.id}"], []
    whatever: list[dict[str, object]] = []  # with every technique as it is, some of which it refuses
    for family, recipes in RECIPES.items():
        facts = zoo.checkpoint(family)[1].model_dump(mode="json")
        about = {"filename": family, "size_bytes": 1, "digest": "0" * 64, "state": UploadState.READY, "facts": facts}
        session.add(row := Checkpoint(name=family, **about))
        session.commit()
        addresses += [f"/checkpoints/{row.id}", f"/api/v1/checkpoints/{row.id}", f"/runs/new?checkpoint={row.id}"]
        for steps in recipes:
            recipe = {"steps": [{"technique": name, "settings": own} for name, own in steps]}
            bodies.append({"checkpoint_id": row.id, "dataset_id": dataset.id, "recipe": recipe})
        whatever += [{"checkpoint_id": row.id, "recipe": {"steps": [{"technique": name}]}} for name in techniques()]
    given = [json.dumps(each) for each in (addresses, bodies, whatever)]
    asked = [sys.executable, "-c", PROCESS, str(settings.instance), *given]
    alone = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}  # the same on any number of cores
    answer = subprocess.run(asked, env=alone, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_the_web_process_imports_nothing_that_computes_and_stays_small(process):
    assert {address: status for address, status in process["answers"].items() if status >= 500} == {}
    refused = [each["error"] for each in process["predictions"] if "error" in each]
    assert refused == []
    assert {200, 422} >= set(process["others"])
    assert not (COMPUTES | SELDOM) & set(process["modules"])
    assert process["own_mb"] < MOST_MB
