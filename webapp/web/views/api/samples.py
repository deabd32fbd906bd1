"""What original and result answered, sample by sample."""

from __future__ import annotations

from webapp.actions.samples import SampleFilter, samples_page
from webapp.store.models import Run
from webapp.web.extensions import row_of, services

from . import schemas
from .endpoints import endpoint


@endpoint("GET", "/runs/<id>/samples", "What original and result answered, sample by sample, the worst first")
def get_samples(id: str, query: schemas.SamplesQuery) -> schemas.SamplesAnswer:
    view = SampleFilter(**query.model_dump(exclude={"limit"}))
    found = samples_page(services().files, row_of(Run, id), view, query.limit)
    kept = found.kept
    told = {
        name: kept.about[name]
        for name in ("kind", "n", "labelled", "distance", "tokens", "tokens_kept", "contents_kept")
    }
    return schemas.SamplesAnswer(
        **told,
        class_names=kept.about["classes"],
        outcomes=kept.outcomes,
        classes=[schemas.ClassAnswer.model_validate(row) for row in kept.classes()],
        confusions=[schemas.ConfusionAnswer.model_validate(row) for row in kept.confusions()],
        matching=found.matching,
        items=[schemas.SampleAnswer.model_validate(row) for row in found.rows],
        next=found.next,
    )
