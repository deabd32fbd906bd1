"""What is found by being there: by file, by entry point; one that is broken, or a name taken twice, is loud."""

import pytest

from tests.plug_ins import ROOMS
from webapp.engine import weights
from webapp.engine.run import load_plugins
from webapp.engine.run.stages.base import code_digest

FOUND = {room: getattr(package, room) for room, package in ROOMS.items()}
KNOWN = {  # room: what they derive from; one that is there, in which file of it, and its name; what all must declare
    "architectures": ("Architecture", "resnet", "ResNet", "resnet", "recognise, skeleton"),
    "exporters": ("Exporter", "onnx", "OnnxExporter", "onnx", "can, file, load, summary, title, write"),
    "importers": ("Importer", "gguf", "GgufImporter", "gguf", "accepts, open, recognises"),
    "stages": ("RunStage", "baseline", "BaselineStage", "baseline", "decided_by, of_run, place, run, title"),
    "techniques": ("Technique", "cast", "Cast", "cast", "Settings, apply, layers, paper, plan, summary, title"),
}
BARE = "from {package}.base import {base}\nclass A({base}): name = family = kind = 'a'"


def told_of(room):
    about = dict(zip(("base", "file", "kind", "name", "lacks"), KNOWN[room], strict=True))
    return about | {"room": room, "package": ROOMS[room].__name__}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import surely_not_there", r"'mine'.*of own-ones 1.0.*cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "'mine'.*cannot be imported: ZeroDivisionError"),
        ("A = 5", "'mine'.*names 5, which is no subclass of {base}"),
        ("raise SystemExit(3)", "'mine'.*cannot be imported: SystemExit"),
        (BARE, "'mine'.*names A, which lacks {lacks}"),
        ("from {package}.{file} import {kind}\nclass A({kind}): pass", "Two {room} are called '{name}'"),
    ],
)
def test_a_broken_entry_point_stops_the_program_and_is_named(plug_ins, room, source, said):
    about = told_of(room)
    plug_ins.package(source.format(**about), "own_ones", {room: "mine = own_ones:A"})
    with pytest.raises(RuntimeError, match=said.format(**about)):
        FOUND[room]()


@pytest.mark.parametrize("room", ROOMS)
def test_a_broken_file_of_a_room_stops_the_program(plug_ins, room):
    plug_ins.file("1 / 0", room, "broken")
    with pytest.raises(ZeroDivisionError):
        FOUND[room]()


@pytest.mark.parametrize(("room", "package"), [*ROOMS.items(), ("forms", weights)])
def test_a_broken_file_in_any_room_stops_the_program_where_it_starts(room, package, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    getattr(package, room).cache_clear()
    with pytest.raises(ZeroDivisionError):
        load_plugins()
    monkeypatch.undo()
    load_plugins()


@pytest.mark.parametrize("room", ROOMS)
def test_one_that_lacks_something_does_not_vanish(plug_ins, room):
    about = told_of(room)
    plug_ins.file(BARE.format(**about), room, "bare")
    with pytest.raises(RuntimeError, match="bare.A lacks {lacks}".format(**about)):
        FOUND[room]()


@pytest.mark.parametrize(
    ("source", "room", "said"),
    [
        (
            "from webapp.engine.exporters.onnx import OnnxExporter\nclass A(OnnxExporter): name = 'a'",
            "exporters",
            "model.onnx",
        ),
        (
            "from webapp.engine.techniques.cast import Cast\nclass A(Cast):\n    name = 'a'\n    Settings = dict",
            "techniques",
            "'a'",
        ),
    ],
)
def test_two_files_of_one_name_and_other_settings_are_refused(plug_ins, source, room, said):
    plug_ins.package(source, "own_ones", {room: "mine = own_ones:A"})
    with pytest.raises(RuntimeError, match=said):
        FOUND[room]()


def test_a_plug_in_that_was_changed_reuses_nothing_that_it_made_before(plug_ins):
    def digest(source):
        (plug_ins.folder / "site/own_ones.py").write_text(source)
        return code_digest.__wrapped__()

    before = code_digest.__wrapped__()
    plug_ins.package("A = 1", "own_ones", {"techniques": "mine = own_ones:A"})
    assert len({before, digest("A = 1"), digest("A = 2")}) == 3
    assert digest("A = 2") == digest("A = 2")
