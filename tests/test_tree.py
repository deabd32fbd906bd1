"""What holds for the tree as a whole: where things live, which way the arrows point, what must be documented."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (".py", ".html", ".js", ".css")
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
TOP_LEVEL = {
    # the house
    "webapp",
    "templates",
    "static",
    "tests",
    "docs",
    "instance",
    # how it is built, and what people expect at the top
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "pyproject.toml",
    ".ci",
    ".gitignore",
    ".gitattributes",
    ".editorconfig",
}


def committed() -> list[Path]:
    """The files that git knows or would take, and that are there; relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if (ROOT / path).exists()]


COMMITTED = committed() if (ROOT / ".git").exists() else []
needs_git = pytest.mark.skipif(not COMMITTED, reason="not a git checkout: what is committed cannot be told")


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text() for name in names)


# The arrows


def test_imports_point_one_way():
    checked = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("package", "strangers"),
    [
        (
            "webapp.engine",
            ("flask", "sqlalchemy", "dbos", "wtforms", "torch", "webapp.store", "webapp.jobs", "webapp.web"),
        ),
        ("webapp.store", ("flask", "dbos", "torch", "webapp.engine.techniques", "webapp.jobs", "webapp.web")),
        ("webapp.charts", ("flask", "sqlalchemy", "dbos", "torch")),
        ("webapp", ("dbos", "webapp.jobs", "webapp.web")),
    ],
)
def test_importing_a_room_brings_no_stranger_along(package, strangers):
    """In a clean process: an import deep inside a library counts as well."""
    probe = f"import sys, {package}; print(*[name for name in {strangers!r} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    brought = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True, env=environment
    ).stdout.split()
    assert brought == [], f"import {package} also imports {', '.join(brought)}"


# The rooms


@needs_git
def test_the_top_level_holds_only_what_a_newcomer_expects():
    unexpected = {path.parts[0] for path in COMMITTED} - TOP_LEVEL
    assert not unexpected, f"{', '.join(sorted(unexpected))} at the top: give it a room, or say here why it is there"


@needs_git
def test_a_name_says_what_it_holds():
    unnamed = [str(path) for path in COMMITTED if NO_NAMES & {part.split(".")[0] for part in path.parts}]
    assert not unnamed, f"{', '.join(unnamed)}: what does it hold, in the field's terms?"


@needs_git
def test_no_third_party_file_is_committed():
    """They are served from the installed packages."""
    ours = (".py", ".md", ".html", ".png")  # a page or a module may be about a library
    foreign = re.compile(r"\.min\.|(^|/)(vendor|node_modules|third_party)/|bootstrap|plotly|\.(woff2?|ttf|map|whl|so)$")
    copied = [str(path) for path in COMMITTED if path.suffix not in ours and foreign.search(str(path))]
    assert not copied, copied


@needs_git
def test_nothing_that_one_installation_keeps_is_committed():
    kept = [path for path in COMMITTED if path.parts[0] == "instance"]
    assert [str(path) for path in kept] in ([], ["instance/README.md"])


@needs_git
def test_tests_mirror_the_rooms():
    """tests/engine/test_recipe.py is about webapp/engine/recipe.py, or about the folder webapp/engine."""
    rooms = {path.parent.relative_to("webapp") for path in COMMITTED if path.parts[0] == "webapp"} | {Path()}
    elsewhere = [
        str(path)
        for path in COMMITTED
        if path.parts[0] == "tests"
        and path.name.startswith("test_")
        and path.parts[1] not in ("e2e", "cases")
        and path.parent.relative_to("tests") not in rooms
    ]
    assert not elsewhere, f"no room in webapp/ for {', '.join(elsewhere)}"


@needs_git
def test_pages_name_no_other_host():
    """Everything a page loads comes from this installation; a link that someone clicks may lead elsewhere."""
    loaded = re.compile(
        r"""(?:src|srcset|action)=["']?(?:https?:)?//|@import|url\(["']?(?:https?:)?//|from ["']https?://"""
    )
    pages = [path for path in COMMITTED if path.parts[0] in ("templates", "static") and path.suffix in SOURCES]
    found = [str(path) for path in pages if loaded.search((ROOT / path).read_text())]
    assert not found, found


def test_every_dependency_is_declared_with_the_least_version_that_will_do():
    declared = tomllib.loads(text_of("pyproject.toml"))["project"]["dependencies"]
    assert not [name for name in declared if ">=" not in name and "==" not in name]


# What a reader needs


def test_the_page_about_the_house_names_every_room_and_leads_to_files_that_are_there():
    page = text_of("docs/architecture.md")
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rooms = [name.strip().removeprefix("webapp.").replace(".", "/") for layer in layers for name in layer.split("|")]
    unnamed = [room for room in rooms if (ROOT / "webapp" / room).is_dir() and f"`{room}/`" not in page]
    assert not unnamed
    gone = [path for path in re.findall(r"`(webapp/[^`]+)`", page) if not (ROOT / path).exists()]
    assert not gone


@needs_git
def test_no_class_name_stands_for_two_things():
    """`Settings` is what each technique declares under that name."""
    places: dict[str, list[str]] = {}
    for path in (path for path in COMMITTED if path.parts[0] == "webapp" and path.suffix == ".py"):
        for name in re.findall(r"^ *class (\w+)[(:\[]", (ROOT / path).read_text(), re.MULTILINE):
            if name != "Settings":
                places.setdefault(name.lstrip("_"), []).append(str(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@needs_git
def test_the_top_of_the_rooms_holds_the_vocabulary_only():
    tops = [path.parent for path in COMMITTED if path.suffix == ".py"]
    assert tops.count(Path("webapp/engine")) <= 8
    assert tops.count(Path("webapp")) <= 5


def test_every_technique_is_documented():
    from webapp.engine.techniques.reference import as_markdown

    assert text_of("docs/techniques.md") == as_markdown(), "run `make docs`"


def test_every_format_is_documented():
    from webapp.engine.exporters.reference import tables, with_tables

    page = text_of("docs/formats.md")
    assert page == with_tables(page), "run `make docs`"
    assert all(table in page for table in tables().values())


def test_every_setting_of_an_installation_is_documented():
    from webapp.config import as_markdown

    assert text_of("docs/settings.md") == as_markdown(), "run `make docs`"


def test_every_command_is_documented():
    from webapp.cli import COMMANDS

    readers = text_of("README.md", "docs/operating.md")
    for command in COMMANDS:
        assert f"pare {command}" in readers, f"neither README.md nor docs/operating.md knows `pare {command}`"


def test_every_address_of_the_api_is_documented(tmp_path):
    from webapp import create_app
    from webapp.config import InstallationSettings

    app = create_app({"SETTINGS": InstallationSettings.load(tmp_path), "TESTING": True})
    addresses = {rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")}
    described = app.test_client().get("/api/v1/openapi.json").get_json()["paths"]
    known = {re.sub(r"{[^}]*}", "{}", path) for path in described}
    undocumented = {rule for rule in addresses if re.sub(r"<[^>]*>", "{}", rule) not in known}
    assert not undocumented - {"/api/v1/openapi.json"}, f"openapi.json does not know {', '.join(sorted(undocumented))}"


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])
def test_links_of_the_documentation_lead_somewhere(page):
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page)):
        if not re.match(r"[a-z]+:", target):
            assert (here / target).exists(), f"{page} links to {target}, which is not there"


def test_files_that_the_documentation_names_are_there():
    for page in (ROOT / "docs").glob("*.md"):
        for named in re.findall(r"`([\w/]+/\w+\.py)`", page.read_text()):
            assert any((room / named).is_file() for room in (ROOT, ROOT / "webapp", ROOT / "webapp/engine")), (
                page.name,
                named,
            )
