"""What original and result answered, sample by sample."""

from __future__ import annotations

from webapp.actions.compared_runs import runs_of
from webapp.actions.sample_comparison import compare_samples
from webapp.actions.samples import SampleFilter, samples_page
from webapp.store.models import Run
from webapp.web.extensions import db, row_of, services

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


@endpoint(
    "GET",
    "/compare/samples",
    "Which samples which run loses",
    errors=(404,),
    example="'?run=ID&run=ID'",
)
def get_compared_samples(query: schemas.ComparedSamplesQuery) -> schemas.ComparedSamplesAnswer:
    runs = runs_of(db.session, list(dict.fromkeys(query.run)))
    found = compare_samples(services().files, runs, query.lost, query.after)
    return schemas.ComparedSamplesAnswer(
        n=found.n,
        differ=found.differ,
        notes=found.notes,
        runs=[schemas.LosingRunAnswer(run_id=row.run.id, lost=row.lost, alone=row.alone) for row in found.runs],
        items=[
            schemas.DifferingSampleAnswer(
                index=row.index, cells=row.cells, sample=schemas.SampleAnswer.model_validate(row.sample)
            )
            for row in found.rows
        ],
        next=found.next,
    )
