"""Checkpoints that nobody uploads."""

from __future__ import annotations

from webapp.actions import imports
from webapp.web.extensions import importing, services

from . import schemas
from .answers import checkpoint_answer
from .endpoints import endpoint


@endpoint("GET", "/imports", "What lies in the folders of import_folders, to be used where it is")
def get_imports() -> schemas.Items[schemas.ImportableAnswer]:
    found = imports.importable(services().settings)
    return schemas.Items[schemas.ImportableAnswer](
        items=[schemas.ImportableAnswer.model_validate(one) for one in found]
    )


@endpoint(
    "POST",
    "/imports",
    "Take in a checkpoint where it lies, hashed and not copied; or a model of the hub by its name",
    status=201,
    errors=(404, 409),
    example="""--json '{"path": "/models/llama"}'""",
)
def import_checkpoint(body: schemas.ImportRequest) -> schemas.CheckpointAnswer:
    given = {"dequantize": body.dequantize, "task": body.task, "newer_than_id": body.newer_than_id}
    asked = {**importing(), **given}
    if body.path is not None:
        return checkpoint_answer(imports.import_path(body.path, **asked))
    assert body.repo_id is not None
    return checkpoint_answer(imports.import_from_hub(body.repo_id, body.revision, **asked))
