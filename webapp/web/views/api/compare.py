"""The table behind the compare page."""

from __future__ import annotations

from flask import Response, request, url_for

from webapp.actions.comparison import Comparison, View, as_csv
from webapp.web.views.compare import asked

from . import schemas
from .endpoints import endpoint


@endpoint("GET", "/compare", "Runs side by side", errors=(404,), example="'?run=ID&run=ID'")
def get_comparison(query: schemas.CompareQuery) -> schemas.ComparisonAnswer:
    found = _asked()
    return schemas.ComparisonAnswer(
        metric=found.metric,
        metrics=found.metrics,
        higher_is_better=found.higher_is_better,
        notes=found.notes,
        rows=found.rows,
        axes=found.choices.axes,
        colours=found.choices.colours,
        recipes=[
            schemas.RecipeDifference(part=row.part, name=row.name, values=row.values, differs=row.differs)
            for row in found.recipes
        ],
        layers=[schemas.LayerDifference(name=row.name, values=dict(row.values)) for row in found.layers().rows],
        url=f"{url_for('compare.index')}?{found.view.query()}",
    )


@endpoint("GET", "/compare.csv", "The same as CSV", media_type="text/csv", errors=(404,))
def get_comparison_csv(query: schemas.CompareQuery) -> Response:
    return Response(
        as_csv(_asked()), mimetype="text/csv", headers={"Content-Disposition": "attachment; filename=compare.csv"}
    )


def _asked() -> Comparison:
    return asked(View.read(request.args))
