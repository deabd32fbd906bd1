"""plotly.min.js from the installed package, and how templates hand a figure to static/charts.js."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from flask import Blueprint, Response, request, url_for
from markupsafe import Markup
from plotly.graph_objects import Figure

blueprint = Blueprint("plotly_library", __name__)

VERSION = version("plotly")


@blueprint.get("/static-vendor/plotly-<of>.min.js")
def script(of: str) -> Response:
    """The address names the version, so a browser keeps it for good. Another version is answered, but not kept."""
    packed = "gzip" in request.accept_encodings
    response = Response(packed_library() if packed else library(), mimetype="text/javascript")
    response.headers["Vary"] = "Accept-Encoding"
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(f"plotly-{VERSION}{'-gzip' if packed else ''}")
    kept = of == VERSION
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
    return response.make_conditional(request)


@cache
def library() -> bytes:
    return (files("plotly") / "package_data" / "plotly.min.js").read_bytes()


@cache
def packed_library() -> bytes:
    """A third of the bytes; packed once per process."""
    return gzip.compress(library(), 6)


@blueprint.app_template_global()
def plotly_url() -> str:
    return url_for("plotly_library.script", of=VERSION)


@blueprint.app_template_filter()
def figure_json(figure: Figure) -> Markup:
    """For a `<script type="application/json">`: no `<` can end the element early."""
    return Markup(str(figure.to_json()).replace("<", "\\u003c"))  # noqa: S704
