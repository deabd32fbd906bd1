"""The documentation of the techniques, made from what they declare."""

from __future__ import annotations

from flask import Blueprint, render_template

from webapp.engine.techniques import techniques
from webapp.web.forms import setting_rows

blueprint = Blueprint("techniques", __name__, url_prefix="/techniques")


@blueprint.get("")
def index() -> str:
    known = [(technique, setting_rows(technique.Settings)) for technique in techniques().values()]
    return render_template("techniques/index.html", techniques=known)
