"""What is found by being there: by file, by entry point; one that is broken, or a name taken twice, is loud."""

import pytest

from tests.plug_ins import ROOMS
from webapp.engine import weights
from webapp.engine.run import load_plugins

FOUND = {room: getattr(package, room) for room, package in ROOMS.items()}
KNOWN = {  # room: what they derive from; one that is there, in which file of it, and its name
    "architectures": ("Architecture", "resnet", "ResNet", "resnet"),
    "exporters": ("Exporter", "onnx", "OnnxExporter", "onnx"),
    "importers": ("Importer", "gguf", "GgufImporter", "gguf"),
    "stages": ("RunStage", "baseline", "BaselineStage", "baseline"),
    "techniques": ("Technique", "cast", "Cast", "cast"),
}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import surely_not_there", r"'mine'.*of own-ones 1.0.*cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "'mine'.*cannot be imported: ZeroDivisionError"),
        ("A = 5", "'mine'.*names 5, which is no subclass of {base}"),
        (
            "from {package} import {base}\nclass A({base}): name = family = kind = 'a'",
            "'mine'.*names A, which lacks ",
        ),
        ("from {package}.{file} import {kind}\nclass A({kind}): pass", "Two {room} are called '{name}'"),
    ],
)
def test_a_broken_entry_point_stops_the_program_and_is_named(plug_ins, room, source, said):
    about = dict(zip(("base", "file", "kind", "name"), KNOWN[room], strict=True))
    about |= {"room": room, "package": ROOMS[room].__name__}
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
