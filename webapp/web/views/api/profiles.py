"""Profiles."""

from __future__ import annotations

from webapp.actions import profiles
from webapp.actions.profiles import ProfileRequest
from webapp.store.models import Profile
from webapp.web.extensions import db, row_of, services

from . import schemas
from .answers import page, profile_answer
from .endpoints import endpoint


@endpoint(
    "POST",
    "/profiles",
    "Have what each option of each layer saves and costs worked out, once for a checkpoint and a dataset",
    status=202,
    errors=(404, 409),
    example="""--json '{"checkpoint_id": "ID", "dataset_id": "ID"}'""",
)
def create_profile(body: ProfileRequest) -> schemas.ProfileAnswer:
    return profile_answer(profiles.create_profile(db.session, services().jobs, body))


@endpoint("GET", "/profiles", "Profiles, newest first")
def get_profiles(query: schemas.ProfilesQuery) -> schemas.Page[schemas.ProfileSummary]:
    asked = [Profile.checkpoint_id == query.checkpoint] if query.checkpoint else []
    rows, next_ = page(Profile, query, *asked)
    return schemas.Page[schemas.ProfileSummary](items=rows, next=next_)


@endpoint("GET", "/profiles/<id>", "A profile: how far it is, and what it found")
def get_profile(id: str, query: schemas.ProfileQuery) -> schemas.ProfileAnswer:
    return profile_answer(row_of(Profile, id), query.layers)


@endpoint("POST", "/profiles/<id>/cancel", "Cancel a profile", status=202, errors=(409,))
def cancel_profile(id: str) -> schemas.ProfileAnswer:
    row = row_of(Profile, id)
    profiles.cancel_profile(db.session, services().jobs, row)
    return profile_answer(row)


@endpoint(
    "POST",
    "/profiles/<id>/retry",
    "Start a failed or cancelled profile again, with what it has kept, unless the same was asked for anew meanwhile",
    status=202,
    errors=(409,),
)
def retry_profile(id: str) -> schemas.ProfileAnswer:
    return profile_answer(profiles.retry_profile(db.session, services().jobs, row_of(Profile, id)))
