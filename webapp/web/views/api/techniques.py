"""What techniques declare."""

from __future__ import annotations

from webapp.engine.techniques import techniques

from . import schemas
from .endpoints import endpoint


@endpoint("GET", "/techniques", "Every technique with the JSON schema of its settings")
def get_techniques() -> schemas.TechniquesAnswer:
    return schemas.TechniquesAnswer(
        items=[
            schemas.TechniqueAnswer(
                name=each.name,
                title=each.title,
                summary=each.summary,
                paper=each.paper,
                version=each.version,
                needs=sorted(each.needs),
                layers=sorted(each.layers),
                settings=each.Settings.model_json_schema(),
            )
            for each in techniques().values()
        ]
    )
