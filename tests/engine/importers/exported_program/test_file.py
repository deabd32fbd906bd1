"""What a .pt2 file may not hold, and what is said of it; and what is told apart from one."""

import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from tests.engine.importers.exported_program.exported import export


@pytest.fixture
def program(tmp_path):
    return export(nn.Sequential(nn.Linear(6, 4), nn.ReLU()), (torch.zeros(2, 6),), tmp_path / "good.pt2")


class Runs:
    """A pickle of it makes a file, where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def changed(program, tmp_path):
    """The good file with members changed: (name without the root, bytes -> bytes); None takes it out."""

    def change(members=None, more=None, compression=zipfile.ZIP_STORED):
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(program) as good, zipfile.ZipFile(path, "w", compression) as bad:
            for info in good.infolist():
                root, _, name = info.filename.partition("/")
                content = good.read(info)
                for wanted, alter in (members or {}).items():
                    content = alter(content) if name == wanted else content
                if content is not None:
                    bad.writestr(info.filename, content)
            for name, content in (more or {}).items():
                bad.writestr(name if name.startswith("..") else f"{root}/{name}", content)
        return path

    return change


def edited(alter):
    """A change of a JSON member."""

    def change(content):
        value = json.loads(content)
        alter(value)
        return json.dumps(value).encode()

    return change


def listing(alter):
    return {"data/weights/model_weights_config.json": edited(lambda value: alter(value["config"]["0.weight"]))}


def graph(alter):
    return {"models/model.json": edited(lambda value: alter(value["graph_module"]["graph"]))}


@pytest.mark.parametrize("where", ["data/weights/weight_0", "data/sample_inputs/model.pt", "data/constants/model.pt"])
def test_no_pickle_is_ever_read(bench, changed, tmp_path, where):
    trap = tmp_path / "ran"
    content = pickle.dumps(Runs(trap))
    marked = listing(lambda about: about.update(use_pickle=True)) if "weights" in where else {}
    path = changed({**marked, where: lambda _: content}, {where: content} if "constants" in where else None)
    if "sample_inputs" in where:
        bench.checkpoint(path)  # torch's own loader would run it; here it is not opened
    else:
        assert "pickle" in bench.refusal(path)
    assert not trap.exists()


def test_a_custom_object_is_refused(bench, changed):
    about = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    alter = edited(lambda value: value["config"].update(thing=about))
    path = changed({"data/constants/model_constants_config.json": alter}, {"data/constants/custom_obj_0": b"\x80\x02."})
    assert "thing as a pickle, which runs code" in bench.refusal(path)


def test_an_expression_is_never_evaluated(bench, changed, tmp_path):
    trap = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"

    def alter(value):
        value["range_constraints"] = {code: {"min_val": 0, "max_val": 9}}
        value["guards_code"] = [code]
        for meta in value["graph_module"]["graph"]["tensor_values"].values():
            meta["sizes"] = [{"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}, *meta["sizes"][1:]]

    path = changed({"models/model.json": edited(alter)})
    assert bench.checkpoint(path).architecture is not None  # a size that is no number is a size that is free
    assert not trap.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.torchvision.nms.default",
        "torch.ops.aten.from_file.default",
        "os.system",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten._reshape_alias.default",
    ],
)
def test_an_operator_that_is_not_on_the_list_is_not_run(bench, changed, target):
    path = changed(graph(lambda value: value["nodes"][-1].update(target=target)))
    facts = bench.checkpoint(path)
    assert facts.architecture is None
    assert target.removeprefix("torch.ops.") in facts.weights_only_because
    assert [layer.name for layer in facts.layers] == ["0"]


def test_members_that_lead_out_of_the_archive(bench, changed):
    assert "leads out of its folder" in bench.refusal(changed(more={"../../evil": b"x"}))


def test_a_bomb(bench, changed):
    path = changed(more={"data/weights/zeros": bytes(300 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    assert "would unpack to" in bench.refusal(path)


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda about: about["tensor_meta"].update(sizes=[{"as_int": 10**9}, {"as_int": 6}]), "claims the shape"),
        (lambda about: about["tensor_meta"].update(strides=[{"as_int": -6}, {"as_int": 1}]), "claims the shape"),
        (lambda about: about["tensor_meta"].update(storage_offset={"as_int": 5}), "claims the shape"),
        (lambda about: about["tensor_meta"].update(dtype=10), "does not read"),
        (lambda about: about.update(path_name="weight_77"), "lacks data/weights/weight_77"),
        (lambda about: about.pop("use_pickle"), "in a form that Pare does not know"),
    ],
)
def test_a_listing_that_lies(bench, changed, alter, said):
    assert said in bench.refusal(changed(listing(alter)))


@pytest.mark.parametrize(
    "alter",
    [
        lambda value: value.pop("nodes"),
        lambda value: value["nodes"][0].update(inputs=[{"name": "self", "arg": {"as_tensor": {"name": "nobody"}}}]),
        lambda value: value["nodes"][0].update(inputs=7),
    ],
)
def test_a_graph_that_is_none(bench, changed, alter):
    assert "in a form that Pare does not know" in bench.refusal(changed(graph(alter)))


def test_another_version_of_the_format(bench, changed):
    path = changed({"models/model.json": edited(lambda value: value.update(schema_version={"major": 99, "minor": 0}))})
    assert "version" in bench.refusal(path)


def test_compiled_code_is_refused(bench, changed):
    assert "compiled code" in bench.refusal(changed(more={"data/aotinductor/model/a.so": b"\x7fELF"}))


def test_kernels_that_trust_their_shapes_are_asked_for_none_that_lie(bench, tmp_path):
    from webapp.engine.architectures.program.operators import operator_of

    lstm = nn.LSTM(4, 5, batch_first=True)
    weights = [weight.detach() for weight in lstm.parameters()]
    with pytest.raises(ValueError, match="state"):
        operator_of("aten.lstm.input")(
            torch.zeros(6, 3, 4), [torch.zeros(1, 3, 5)] * 2, weights, True, 1, 0.0, False, False, True
        )


def test_a_program_in_a_safetensors_file_is_checked_as_well(bench, program):
    from webapp.engine.weights.safetensors import read_header, write_safetensors

    bench.checkpoint(program)
    metadata, _, _ = read_header(bench.out / "model.safetensors")
    told, tensors = json.loads(metadata["pare_architecture"]), bench.tensors()
    told["program"]["steps"][0] = ["aten.from_file.default", "%1", ["string:/etc/passwd"]]
    path = bench.root / "evil.safetensors"
    write_safetensors(path, tensors, {"pare_architecture": json.dumps(told)})
    assert "no operator that Pare runs" in bench.refusal(path)
    told["program"] = {"steps": 5}
    write_safetensors(path, tensors, {"pare_architecture": json.dumps(told)})
    assert "in a form that Pare does not know" in bench.refusal(path)
