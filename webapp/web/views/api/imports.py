"""Checkpoints that nobody uploads."""

from __future__ import annotations

from webapp.actions import imports
from webapp.web.extensions import db, services

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
    "Take in a checkpoint where it lies: hashed, not copied",
    status=201,
    errors=(404,),
    example="""--json '{"path": "/models/llama"}'""",
)
def import_checkpoint(body: schemas.ImportRequest) -> schemas.CheckpointAnswer:
    found = services()
    row = imports.import_path(
        body.path,
        session=db.session,
        jobs=found.jobs,
        settings=found.settings,
        dequantize=body.dequantize,
        task=body.task,
    )
    return checkpoint_answer(row)
