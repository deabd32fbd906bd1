"""How numbers, times, states and icons are shown: the filters and globals of the templates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, current_app, request, url_for
from markupsafe import Markup

from webapp.actions.deployments import served_formats
from webapp.actions.run_columns import FIXED
from webapp.engine.data.tasks import TITLES
from webapp.engine.exporters import exporters
from webapp.engine.importers import importers
from webapp.engine.run.metrics import METRICS
from webapp.engine.techniques import technique_title
from webapp.store.models import SAMPLES
from webapp.units import FRACTIONS, byte_text, lowered, measured_text, percent, significant

from .calls import calls_of_page
from .markdown import markdown

if TYPE_CHECKING:
    from webapp.engine.plugins import Accepted

STATE_LOOKS = {  # state: (the word that is shown, icon, colour)
    "inspecting": ("Inspecting", "search", "active"),
    "ready": ("Ready", "check-circle-fill", "good"),
    "refused": ("Refused", "x-octagon-fill", "bad"),
    "queued": ("Queued", "hourglass-split", "quiet"),
    "running": ("Running", "arrow-repeat", "active"),
    "succeeded": ("Succeeded", "check-circle-fill", "good"),
    "failed": ("Failed", "x-octagon-fill", "bad"),
    "cancelled": ("Cancelled", "slash-circle", "quiet"),
    "starting": ("Starting", "arrow-repeat", "active"),
    "stopped": ("Stopped", "stop-circle", "quiet"),
    "skipped": ("Skipped", "dash-circle", "quiet"),
    "waiting": ("Not started", "circle", "quiet"),
    "reused": ("Reused", "recycle", "good"),
}
PREFIXES = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
SYMBOL = re.compile(r'<symbol class="bi bi-[\w-]+" viewBox="([\d .]+)" id="([\w-]+)">(.*?)</symbol>', re.DOTALL)


@cache
def symbols() -> dict[str, tuple[str, str]]:
    """{name: (viewBox, shapes)}."""
    sprite = files("flask_bootstrap") / "static" / "bootstrap5" / "icons" / "bootstrap-icons.svg"
    return {name: (box, shapes.strip()) for box, name, shapes in SYMBOL.findall(sprite.read_text())}


def icon(name: str, classes: str = "") -> Markup:
    """An icon beside a text that says the same; hidden from screen readers. Raises KeyError for an unknown name."""
    box, shapes = symbols()[name]
    return Markup(  # noqa: S704 - nothing of it comes from a user
        f'<svg class="icon {classes}" viewBox="{box}" width="16" height="16" fill="currentColor" '
        f'aria-hidden="true" focusable="false">{shapes}</svg>'
    )


def init_display(app: Flask) -> None:
    app.jinja_env.filters.update(
        bytes=byte_text,
        count=count_text,
        short=short_text,
        percent=percent,
        duration=duration_text,
        measured=measured_text,
        significant=significant,
        when=when_text,
        format_title=format_title,
        markdown=markdown,
        moment=moment,
        technique_title=technique_title,
        lowered=lowered,
    )
    app.after_request(keep_versioned_assets)
    app.jinja_env.globals.update(
        served_formats=served_formats,
        fractions=FRACTIONS,
        task_titles=TITLES,
        icon=icon,
        state_looks=STATE_LOOKS,
        asset=asset,
        calls_of_page=calls_of_page,
        suffixes=suffixes,
        metric_title=metric_title,
        run_name_column=FIXED["name"],
    )


OTHER_FILES = {"companion": "Goes with the weights", SAMPLES: "What both answered to each sample"}


def moment(seconds: float) -> datetime:
    """Of so many seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def metric_title(name: str) -> str:
    return METRICS[name].title if name in METRICS else name.replace("_", " ").capitalize()


def format_title(name: str) -> str:
    """What a format is called, one that comes in or goes out: "compressed_tensors" → "Transformers folder"."""
    titles = {kind.name: kind.accepts.title for kind in importers().values()} | {
        form.name: form.title for form in exporters().values()
    }
    return titles.get(name, OTHER_FILES.get(name, name))


def count_text(value: float) -> str:
    """1234567 → "1,234,567"."""
    return f"{value:,}"


def short_text(value: float) -> str:
    """134515008 → "134.5 M"; exact below 10,000."""
    if value < 10_000:
        return count_text(value)
    divisor, letter = next((d, p) for d, p in PREFIXES if value >= d)
    return f"{value / divisor:.1f} {letter}"


def duration_text(seconds: float | None) -> str:
    """0.4 → "0.4 s", 75 → "1 min 15 s", 4000 → "1 h 6 min"."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def when_text(moment: datetime, now: datetime | None = None) -> str:
    """ "just now", "5 min ago", "3 h ago", else the date. SQLite gives times without a zone; they are UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 86400:
        return f"{int(seconds // 3600)} h ago"
    return f"{moment:%-d %b %Y}"


def suffixes(accepted: Iterable[Accepted]) -> list[str]:
    """How the files end that can be uploaded, each once."""
    return list(dict.fromkeys(suffix for one in accepted for suffix in one.suffixes))


def asset(name: str) -> str:
    """The address of a file in static/, with its digest: a new version is never taken from a cache."""
    return url_for("static", filename=name, v=asset_version(Path(current_app.static_folder or ""), name))


def keep_versioned_assets(response: Response) -> Response:
    """For good, where the address names the version; else a browser asks again, and mostly hears 304."""
    if request.endpoint == "static" and request.args.get("v") and response.status_code == 200:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    if request.endpoint == "bootstrap.static" and response.status_code == 200:
        response.headers["Cache-Control"] = "public, max-age=86400"  # it is another one only with another package
    return response


@cache
def _digest(path: Path, modified_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def asset_version(folder: Path, name: str) -> str:
    path = folder / name
    return _digest(path, path.stat().st_mtime_ns)
