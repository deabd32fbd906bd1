"""Share links: made and revoked by those who work here, opened by anyone who holds one. They show nothing else."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.actions.compared_runs import drawn
from webapp.actions.comparison import SCALES, SETTINGS, Comparison, View, as_csv, choices_of, compare
from webapp.actions.errors import NotFound
from webapp.actions.sharing import open_share, revoke, share_runs, share_study, shared_runs, token_of
from webapp.engine.errors import PareError
from webapp.store.models import Run, Share, Study
from webapp.web.error_pages import answer_known
from webapp.web.extensions import db, services

from .artifacts import artifact_of, send_artifact
from .compare import csv_answer, ids_of
from .receipts import bytes_figure, json_answer, require_receipt
from .studies import csv_of, study_page

blueprint = Blueprint("shares", __name__)


@blueprint.app_template_global()
def share_token(id: str) -> str:
    return token_of(id, services().settings.secret_key)


def share_of(token: str) -> Share:
    """Raises NotFound."""
    return open_share(db.session, token, services().settings.secret_key)


@blueprint.post("/runs/<id>/shares")
def create(id: str) -> ResponseReturnValue:
    run = db.get_or_abort(Run, id)
    share_runs(db.session, [run.id])
    flash("The link is made. Anyone with the link can view this run only.")
    return redirect(url_for("runs.show", id=run.id) + "#share")


@blueprint.post("/studies/<id>/shares")
def create_study(id: str) -> ResponseReturnValue:
    study = db.get_or_abort(Study, id)
    share_study(db.session, study.id)
    flash("The link is made. Anyone with the link can view this study only.")
    return redirect(url_for("studies.show", id=study.id) + "#share")


@blueprint.post("/compare/shares")
def create_comparison() -> ResponseReturnValue:
    view = View.read(request.form)
    run_ids = ids_of(view)
    compare(view, drawn(db.session, run_ids))
    share_runs(db.session, run_ids, view.settings())
    flash("The link is made. Anyone with the link can view this comparison only.")
    return redirect(f"{url_for('compare.index')}?{view.query()}#share")


@blueprint.post("/shares/<token>/revoke")
def end(token: str) -> ResponseReturnValue:
    share = share_of(token)
    revoke(db.session, share)
    flash("The link is revoked; it leads nowhere from now on.")
    if study_id := share.view.get("study"):
        return redirect(url_for("studies.show", id=study_id) + "#share")
    if share.view:
        return redirect(url_for("compare.index", run=share.run_ids) + "#share")
    return redirect(url_for("runs.show", id=share.run_ids[0]) + "#share")


@blueprint.get("/shared/<token>")
def show(token: str) -> str:
    share = share_of(token)
    if "study" in share.view:
        study = shared_study(share)
        return render_template("shares/study.html", token=token, **study_page(study, links=False))
    if share.view:
        found = shared_comparison(share)
        return render_template(
            "shares/comparison.html",
            token=token,
            comparison=found,
            scales=SCALES,
            gone=share.view.get("gone", ()),
        )
    run = shared_run(share)
    figure = bytes_figure(run) if run.receipt else None
    return render_template("shares/run.html", token=token, run=run, receipt=run.receipt, figure=figure)


@blueprint.get("/shared/<token>/receipt")
def receipt(token: str) -> str:
    run = shared_run(share_of(token))
    require_receipt(run)
    return render_template("shares/receipt.html", token=token, run=run, receipt=run.receipt, figure=bytes_figure(run))


@blueprint.get("/shared/<token>/receipt.json")
def receipt_json(token: str) -> Response:
    return json_answer(shared_run(share_of(token)))


@blueprint.get("/shared/<token>/artifacts/<path:name>")
def artifact(token: str, name: str) -> Response:
    found = artifact_of(shared_run(share_of(token)), name)
    if found.private:
        raise NotFound(f"{name} holds samples of the dataset, which are not shared.")
    return send_artifact(found)


@blueprint.get("/shared/<token>/compare.csv")
def comparison_csv(token: str) -> Response:
    return csv_answer(as_csv(shared_comparison(share_of(token))))


@blueprint.get("/shared/<token>/study.csv")
def study_csv(token: str) -> Response:
    share = share_of(token)
    if "study" not in share.view:
        raise NotFound("This link does not lead to a study.")
    return csv_of(shared_study(share), named=False)


@blueprint.errorhandler(PareError)
def refused(error: PareError) -> ResponseReturnValue:
    """One page for a link that never was and for one that is revoked; also of what else is wrong, without a way out."""
    if not request.path.startswith("/shared/"):
        return answer_known(error)
    if error.status >= 500:
        current_app.logger.error("%s %s: %s", request.method, request.endpoint, error)
    return render_template("shares/error.html", error=error, gone=error.status == 404), error.status


@blueprint.after_request
def keep_private(response: Response) -> Response:
    if request.path.startswith("/shared/"):
        response.headers["X-Robots-Tag"] = "noindex, nofollow"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Cache-Control", "private, no-cache")
    return response


def shared_run(share: Share) -> Run:
    """The run of a link to a run. Raises NotFound for a link to a comparison, which shows no single run."""
    runs = [] if share.view else shared_runs(db.session, share)
    if not runs:
        raise NotFound("This link does not lead to a run.")
    return runs[0]


def shared_study(share: Share) -> Study:
    """Raises NotFound where it was deleted since."""
    study = db.session.get(Study, share.view["study"])
    if study is None:
        raise NotFound("This link does not lead to a study.")
    return study


def shared_comparison(share: Share) -> Comparison:
    """As it was shared, with the axes and sorting that this request asks for; runs are numbered, not named by id."""
    runs = shared_runs(db.session, share)
    if not share.view or not runs:  # a study's link has no runs
        raise NotFound("This link does not lead to a comparison.")
    with_tags = share.view.get("colour") == "tag"  # else they are the owners' own
    numbered = drawn(db.session, [run.id for run in runs], anonymous=True, with_tags=with_tags)
    kept = choices_of(numbered).fitting(share.view)  # an axis may have gone since
    asked = {name: request.args.get(name) or kept.get(name, "") for name in SETTINGS}
    return compare(View.of([run["id"] for run in numbered], asked), numbered)
