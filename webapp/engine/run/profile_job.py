"""What a profile is computed from, and the key by which one that is there already is found."""

from __future__ import annotations

from .stages.base import SourceDigests, hashed
from .stages.job import DataGiven, ModelJob


class ProfileJob(ModelJob):
    """The child's task "profile". What options cost is found on samples that techniques see, and none that judge."""


def profile_key(asked: DataGiven, sources: SourceDigests) -> str:
    """The hash of all that decides a profile."""
    read = {"dataset": sources.dataset, "training": sources.training, **asked.model_dump(mode="json")}
    return hashed({"profile": sources.checkpoint, **read})
