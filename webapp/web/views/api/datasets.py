"""Datasets."""

from __future__ import annotations

from pathlib import Path

from webapp.actions import uploads
from webapp.actions.deletion import delete_dataset as delete_row
from webapp.store.files import Readable
from webapp.store.models import Dataset
from webapp.web.extensions import db, row_of, taking_in

from . import schemas
from .answers import page
from .endpoints import Body, body_length, endpoint, require_bare_body


@endpoint(
    "PUT",
    "/datasets",
    "Upload a dataset: the file is the body",
    status=201,
    raw_body=True,
    errors=(413, 415, 507),
    example="-T digits.npz '?name=digits.npz'",
)
def put_dataset(query: schemas.DatasetQuery) -> schemas.DatasetAnswer:
    require_bare_body()
    return schemas.DatasetAnswer.model_validate(receive_dataset(Body(), query, body_length()))


@endpoint("GET", "/datasets", "Datasets, newest first")
def get_datasets(query: schemas.PageQuery) -> schemas.Page[schemas.DatasetAnswer]:
    rows, next_ = page(Dataset, query)
    return schemas.Page[schemas.DatasetAnswer](items=rows, next=next_)


@endpoint("GET", "/datasets/<id>", "A dataset and its split")
def get_dataset(id: str) -> schemas.DatasetAnswer:
    return schemas.DatasetAnswer.model_validate(row_of(Dataset, id))


@endpoint("DELETE", "/datasets/<id>", "Delete a dataset that no run uses", status=204, errors=(409,))
def delete_dataset(id: str) -> None:
    delete_row(db.session, row_of(Dataset, id))


def receive_dataset(stream: Readable | Path, query: schemas.DatasetQuery, expected_bytes: int | None) -> Dataset:
    return uploads.receive_dataset(
        stream,
        query.name,
        query.split,
        **taking_in(),
        expected_bytes=expected_bytes,
    )
