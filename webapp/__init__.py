"""Pare: a web dashboard that makes neural networks smaller, and proves what it did.

Nothing is imported or started here but the factory, so `import webapp.engine` needs no web server.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

# Under /api security.py refuses other sites, and under /serve no cookie gives a right. The form of a recipe checks its
# token itself, so that it can come back with all that was typed.
OWN_CSRF_CHECK = ("run_builder",)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application. `config` is Flask's, and may hold `SETTINGS` in place of the environment's."""
    from flask import Flask
    from flask_bootstrap import Bootstrap5
    from flask_wtf import CSRFProtect

    from webapp.engine.run import load_plugins
    from webapp.jobs.client import JobClient
    from webapp.store.files import FileStore
    from webapp.web.access import init_access
    from webapp.web.compression import init_compression
    from webapp.web.display import init_display
    from webapp.web.error_pages import init_errors
    from webapp.web.extensions import Services, db, init_database
    from webapp.web.next_step import init_next_step
    from webapp.web.security import init_security
    from webapp.web.tour import init_tour
    from webapp.web.views import blueprints

    from .config import InstallationSettings

    settings = (config or {}).get("SETTINGS") or InstallationSettings.load()
    load_plugins()
    app = Flask(
        __name__,
        template_folder=str(beside("templates")),
        static_folder=str(beside("static")),
        instance_path=str(settings.instance),
    )
    app.config.from_mapping(
        SETTINGS=settings,
        SECRET_KEY=settings.secret_key,
        BOOTSTRAP_SERVE_LOCAL=True,
        MAX_FORM_MEMORY_SIZE=2_000_000,  # bytes; uploads are streamed and have their own limit
        SESSION_COOKIE_NAME="pare",
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session; a form may stay open overnight
        WTF_CSRF_SSL_STRICT=False,  # the Origin is checked instead: Referrer-Policy may hide the referrer
        WTF_CSRF_CHECK_DEFAULT=True,
    )
    app.config.update(config or {})
    app.json.sort_keys = False  # type: ignore[attr-defined]
    Bootstrap5(app)
    init_compression(app)
    init_security(app)
    init_access(app)
    csrf = CSRFProtect(app)  # after those: it reads the body
    init_errors(app)
    init_display(app)
    init_next_step(app)
    init_tour(app)
    init_database(app, settings.database_url)
    files = FileStore(settings.files_url, settings.instance / "cache", settings.min_free_bytes)
    with app.app_context():
        app.extensions["pare"] = Services(settings, files, JobClient(settings, db.engine))
    for blueprint in blueprints():
        app.register_blueprint(blueprint)
        if blueprint.name in OWN_CSRF_CHECK or (blueprint.url_prefix or "").startswith(("/api", "/serve")):
            csrf.exempt(blueprint)
    return app


def beside(name: str) -> Path:
    """The folder in the repository, or within the package once installed."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parents[1] / name
