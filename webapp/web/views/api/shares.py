"""Share links of runs and comparisons."""

from __future__ import annotations

from werkzeug.datastructures import MultiDict

from webapp.actions.compared_runs import drawn
from webapp.actions.comparison import View, compare
from webapp.actions.sharing import revoke, share_runs, shares_of
from webapp.store.models import Run
from webapp.web.extensions import db, row_of
from webapp.web.views.shares import share_of

from . import schemas
from .answers import share_answer
from .endpoints import endpoint


@endpoint("POST", "/runs/<id>/shares", "Make a read-only link to a run", status=201)
def share_run(id: str) -> schemas.ShareAnswer:
    return share_answer(share_runs(db.session, [row_of(Run, id).id]))


@endpoint("GET", "/runs/<id>/shares", "The links to a run")
def get_shares(id: str) -> schemas.Items[schemas.ShareAnswer]:
    links = shares_of(db.session, [row_of(Run, id).id])
    return schemas.Items[schemas.ShareAnswer](items=[share_answer(link) for link in links])


@endpoint("DELETE", "/runs/<id>/shares", "Revoke every link to a run", status=204)
def revoke_shares(id: str) -> None:
    for link in shares_of(db.session, [row_of(Run, id).id]):
        revoke(db.session, link)


@endpoint("DELETE", "/shares/<token>", "Revoke a link", status=204)
def revoke_share(token: str) -> None:
    revoke(db.session, share_of(token))


@endpoint("POST", "/compare/shares", "Make a read-only link to a comparison", status=201, errors=(404,))
def share_comparison(body: schemas.ComparisonShareRequest) -> schemas.ShareAnswer:
    pairs = [("run", id_) for id_ in body.run_ids]
    view = View.read(MultiDict(pairs + list(body.model_dump(exclude={"run_ids"}).items())))
    compare(view, drawn(db.session, view.run_ids))
    return share_answer(share_runs(db.session, view.run_ids, view.settings()))
