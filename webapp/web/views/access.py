"""Signing in with the access token, once for each browser."""

from __future__ import annotations

import re

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.validators import InputRequired

from webapp.actions.errors import AccessRefused, TooManyTries
from webapp.web import access
from webapp.web.extensions import services

blueprint = Blueprint("access", __name__)


class SignIn(FlaskForm):
    token = PasswordField("Access token", [InputRequired("Paste the access token.")])


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    target = request.args.get("next", "")
    home = redirect(target if is_ours(target) else url_for("home.index"), 303)
    if not services().settings.access_token or access.is_signed_in():
        return home
    form = SignIn()
    status = 200
    if form.validate_on_submit():
        try:
            access.sign_in((form.token.data or "").strip())
        except (AccessRefused, TooManyTries) as error:
            form.token.errors = [error.message]
            status = error.status
        else:
            return home
    return render_template("access/sign_in.html", form=form), status


@blueprint.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    access.sign_out()
    return redirect(url_for("access.sign_in"), 303)


def is_ours(target: str) -> bool:
    """A path here: browsers take //name and /\\name for another site, and leave control characters out."""
    return bool(re.fullmatch(r"/(?![/\\])[^\\\x00-\x20]*", target))
