"""What techniques declare."""

from __future__ import annotations

from webapp.engine.techniques import techniques

from . import schemas
from .endpoints import endpoint


@endpoint("GET", "/techniques", "Every technique with the JSON schema of its settings")
def get_techniques() -> schemas.Items[schemas.TechniqueAnswer]:
    return schemas.Items[schemas.TechniqueAnswer](items=list(techniques().values()))
