"""The command line does the whole job without a server, and its result can be checked again."""

import csv
import json
import re
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tests.engine.drawn import tone
from tests.patience import PATIENCE_SECONDS, until
from tests.zoo import build_tiny, write_tokenizer
from webapp.cli import pare
from webapp.commands import local_runs
from webapp.commands.workbench import Workbench
from webapp.engine import load
from webapp.engine.errors import PareError
from webapp.engine.profiles.facts import ProfileFacts
from webapp.engine.profiles.options import layer_options
from webapp.engine.profiles.smallest import Probe
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import techniques
from webapp.jobs.child import ENGINE_CHILD, ChildSupervisor
from webapp.jobs.fork_client import Forks


@pytest.fixture(scope="module", autouse=True)
def one_fork_server():
    """For all commands: its start is most of what one takes."""
    forks = Forks(ENGINE_CHILD, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forks, "close", lambda: None)
        patch.setattr("webapp.jobs.child.Forks", lambda entry, threads: forks)
        yield
    forks.close()


@pytest.fixture
def limits(monkeypatch):
    """The memory that each stage of the commands was held to."""
    found, run = [], ChildSupervisor.run

    def noted(self, job, *more):
        if job["task"] == "stage":
            found.append(job["memory_limit_bytes"])
        return run(self, job, *more)

    monkeypatch.setattr(ChildSupervisor, "run", noted)
    return found


@pytest.fixture
def given(tmp_path):
    """A small MLP, 100 samples that it labels itself, and a recipe."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    torch.save(module.state_dict(), tmp_path / "mlp.pt")
    x = torch.randn(100, 16)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=module(x).argmax(-1).numpy())
    recipe = {"version": 1, "steps": [{"technique": "magnitude_pruning"}, {"technique": "weight_quantization"}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return tmp_path


def call(*args) -> str:
    result = CliRunner().invoke(pare, [str(arg) for arg in args])
    return f"{result.output}\nexit {result.exit_code}"


def compress(given) -> str:
    files = {"--recipe": "recipe.yaml", "--data": "data.npz", "--out": "out"}
    return call("compress", given / "mlp.pt", "--quiet", *(x for k, v in files.items() for x in (k, given / v)))


def test_compress_writes_a_file_that_loads_and_verify_believes_it(given):
    said = compress(given)
    assert "exit 0" in said
    assert "smaller; accuracy" in said
    receipt = json.loads((given / "out/receipt.json").read_text())
    size = (given / "out/model.safetensors").stat().st_size
    assert size == receipt["bytes"]["total"]
    assert load(given / "out/model.safetensors")(torch.randn(2, 16)).shape == (2, 4)
    kept = Recipe.parse((given / "out/recipe.yaml").read_text())
    assert [step.version for step in kept.steps] == [1, 2], "a later version refuses it by name, as of a run's page"
    assert kept.digest == receipt["provenance"]["recipe_digest"]
    assert "checks passed" in call("verify", given / "out")
    for name in ("model.safetensors", "receipt.json"):  # as the pages name downloads
        (given / "out" / name).rename(given / "out" / f"mlp-gptq4.{name.removeprefix('model.')}")
    assert "checks passed" in call("verify", given / "out")
    assert [p.name for p in given.iterdir() if p.name.startswith(".pare")] == []


SIDE_BY_SIDE = {
    "version": 2,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": [0.5, 0.9]}},
        {"technique": ["weight_quantization", "cast"], "settings": {"bits": "4..5"}},
    ],
}


def study(given, *more) -> str:
    (given / "sweep.yaml").write_text(json.dumps(SIDE_BY_SIDE))
    files = ["--data", given / "data.npz", "--recipe", given / "sweep.yaml"]
    return call("study", given / "mlp.pt", *files, *more)


def test_a_study_runs_every_recipe_of_its_ranges_and_shares_what_they_begin_with(given, monkeypatch):
    done = []
    monkeypatch.setattr(Workbench, "stage", stage_noted(done, Workbench.stage))
    told = study(given, "--out", given / "out", "--quiet")
    assert [name for name in done if name in ("baseline", "step-1", "step-2")] == [
        "baseline",
        "step-1",
        "step-2",
        "step-2",
        "step-2",
        "step-1",
        "step-2",
        "step-2",
        "step-2",
    ]
    rows = list(csv.DictReader((given / "out/study.csv").read_text().splitlines()))
    assert [(row["Sparsity"], row["Technique"], row["Bits"]) for row in rows[:3]] == [
        ("0.5", "weight_quantization", "4"),
        ("0.5", "weight_quantization", "5"),
        ("0.5", "cast", ""),
    ]
    for row in rows:
        folder = given / "out" / row["folder"]
        receipt = json.loads((folder / "receipt.json").read_text())
        accuracy = next(each["result"] for each in receipt["quality"] if each["metric"] == "accuracy")
        assert float(row["metric:accuracy"]) == accuracy["value"]
        assert int(row["size_bytes"]) == (folder / "model.safetensors").stat().st_size
        assert row["run"] in told
    assert sorted(path.name for path in given.iterdir() if path.name.startswith(".pare")) == []


def stage_noted(done, stage):
    def noted(self, planned, *more):
        done.append(planned.name)
        return stage(self, planned, *more)

    return noted


def test_a_study_goes_on_where_a_run_fails_and_says_so(given, monkeypatch):
    stage = Workbench.stage

    def failing(self, planned, *more):
        if planned.name == "step-2" and planned.asked.recipe.steps[1].technique == "cast":
            raise PareError("It broke.")
        return stage(self, planned, *more)

    monkeypatch.setattr(Workbench, "stage", failing)
    (given / "sweep.yaml").write_text(json.dumps(SIDE_BY_SIDE))
    files = ["--data", str(given / "data.npz"), "--recipe", str(given / "sweep.yaml"), "--out", str(given / "out")]
    result = CliRunner().invoke(pare, ["study", str(given / "mlp.pt"), *files])
    assert result.exit_code == 3
    assert "Sparsity 0.5, Cast to half precision failed. It broke." in result.output
    assert sorted(path.name for path in (given / "out").iterdir()) == ["001", "002", "004", "005", "study.csv"]


def test_the_plan_of_a_study_tells_sizes_and_what_is_left_out(given):
    recipe = {"version": 2, "steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": [0.5, 7]}}]}
    (given / "sweep.yaml").write_text(json.dumps(recipe))
    told = call("study", given / "mlp.pt", "--recipe", given / "sweep.yaml", "--plan")
    assert re.search(r"Sparsity 0\.5 +\d", told)
    assert "Left out: Sparsity 7." in told


def test_a_command_that_is_told_to_end_leaves_nothing_behind(given):
    for_minutes = {"technique": "fine_tune", "settings": {"epochs": 10_000, "batch_size": 1, "patience": 0}}
    (given / "long.yaml").write_text(json.dumps({"version": 2, "steps": [for_minutes]}))
    asked = ["compress", given / "mlp.pt", "--recipe", given / "long.yaml", "--data", given / "data.npz"]
    asked += ["--out", given / "out"]
    command = subprocess.Popen([sys.executable, "-m", "webapp.cli", *map(str, asked)], start_new_session=True)
    until(lambda: list(given.glob(".pare-*/*")))
    command.terminate()
    assert command.wait(PATIENCE_SECONDS) in (1, -signal.SIGINT)  # Python's own, where it was in the midst of an import
    assert [path.name for path in given.iterdir() if path.name.startswith((".pare", "out"))] == []


@pytest.fixture
def unreached() -> set[str]:
    """Names of layers that no sample reaches."""
    return set()


@pytest.fixture
def profiled(monkeypatch, unreached):
    """A profile in which a layer's loss is the square of the share that it loses, whatever the option."""

    def profile(self, asked, sources, tell):
        def weighed(option, kept, layer):
            lost = 0.0 if layer.name in unreached else (1 - option.bytes / kept.bytes) ** 2 / 10
            return option.model_copy(update={"loss": lost})

        layers = [
            layer.model_copy(
                update={"options": tuple(weighed(each, layer.options[0], layer) for each in layer.options)}
            )
            for layer in layer_options(sources.checkpoint.facts)
        ]
        return ProfileFacts(unit="nats", samples=70, layers=tuple(layers), seconds=1.0)

    monkeypatch.setattr(Workbench, "profile", profile)


def test_every_stage_is_held_to_the_memory_that_is_named(given, limits):
    where = [given / "mlp.pt", "--recipe", given / "recipe.yaml", "--quiet"]
    assert "exit 0" in call("compress", *where, "--out", given / "out", "--memory", "3GB")
    assert len(limits) == len(json.loads((given / "out/receipt.json").read_text())["cost"])
    assert set(limits) == {3_000_000_000}
    with pytest.raises(PareError, match=r"would need up to \S+ MB of memory, and a run may use 451 MB here"):
        CliRunner().invoke(pare, ["compress", *map(str, where), "--plan", "--memory", "451MB"], catch_exceptions=False)
    assert "less --memory than 450 MB" in call("compress", *where, "--plan", "--memory", "0")


def by_budget(given, *budget) -> str:
    return call("compress", given / "mlp.pt", "--data", given / "data.npz", "--out", given / "out", *budget)


def test_compress_keeps_to_a_size_and_says_what_was_expected(given, profiled):
    said = by_budget(given, "--size", "1.6kB", "--families", "quantization")
    assert "exit 0" in said, said
    receipt = json.loads((given / "out/receipt.json").read_text())
    size, loss = receipt["prediction"]["rows"]
    assert 1500 < size["measured"] <= size["expected"] <= 1600
    assert (given / "out/model.safetensors").stat().st_size == size["measured"]
    assert loss["interval"][0] < loss["expected"] < loss["interval"][1]
    divergence = next(row for row in receipt["quality"] if row["metric"] == "kl_divergence")
    assert loss["measured"] == divergence["result"]["value"] > 0
    assert "Expected and measured" in said
    assert f"The budget: {size['expected']:,} bytes" in said
    families = {techniques()[step["technique"]].family for step in receipt["steps"]}
    assert families == {"Quantization"}


def test_a_tolerance_gives_the_smallest_file_that_is_expected_to_keep_it(given, profiled):
    assert "exit 0" in by_budget(given, "--tolerance", "0.05", "--quiet")
    loss = json.loads((given / "out/receipt.json").read_text())["prediction"]["rows"][1]
    assert 0.03 < loss["expected"] < 0.0501


def test_several_runs_find_a_smaller_file_that_keeps_the_tolerance_as_measured(given, profiled):
    said = by_budget(given, "--tolerance", "0.02", "--runs", "3")
    assert "exit 0" in said, said
    kept = json.loads((given / "out/receipt.json").read_text())
    runs = re.findall(r"^Run (\d):", said, re.MULTILINE)
    sizes = [int(size.replace(",", "")) for size in re.findall(r"^The budget: ([\d,]+) bytes", said, re.MULTILINE)]
    assert runs == ["1", "2", "3"][: len(sizes)]
    assert 1 < len(sizes) <= 3
    assert kept["prediction"]["rows"][1]["measured"] <= 0.02
    assert kept["bytes"]["total"] in sizes
    assert "checks passed" in call("verify", given / "out")


def test_a_profile_is_printed_as_a_table_or_as_json(given, profiled):
    asked = ("profile", given / "mlp.pt", "--data", given / "data.npz", "--quiet")
    said = call(*asked)
    assert "mlp.pt on 70 samples: 1 s, losses in nats" in said
    assert [line.split()[0] for line in said.partition("\nThe front")[0].splitlines()[4:]] == ["0", "2", "vectors"]
    printed = json.loads(call(*asked, "--json").rpartition("\nexit 0")[0])
    assert [layer["name"] for layer in printed["layers"]] == ["0", "2", "vectors"]
    assert printed["front"][0]["size_bytes"] < printed["front"][-1]["size_bytes"]


def test_where_no_run_keeps_the_tolerance_that_is_said(given, profiled, monkeypatch):
    monkeypatch.setattr(local_runs, "probe_of", lambda unit, result, verdict: Probe(result["size_bytes"], 9.0))
    asked = ("--data", given / "data.npz", "--out", given / "out", "--tolerance", "0.02", "--runs", "2")
    said = str(CliRunner().invoke(pare, ["compress", *map(str, [given / "mlp.pt", *asked])]).exception)
    assert "No file within the tolerance was found. 2 runs were measured, as many as were asked for." in said
    assert not (given / "out").exists()


def test_layers_that_no_sample_reached_are_named_as_what_a_budget_shrinks_first(given, profiled, unreached):
    asked = ("profile", given / "mlp.pt", "--data", given / "data.npz")
    assert "No sample" not in call(*asked)
    unreached.add("0")
    said = call(*asked)
    assert "No sample reached 0: whatever is done there costs nothing on this data" in said
    assert "0 (no sample reached it)" in said
    assert "No sample reached 0:" in by_budget(given, "--size", "2kB")


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ((), "Name a --recipe, or a budget"),
        (("--ratio", "0.5", "--recipe", "RECIPE"), "Name a --recipe, or a budget"),
        (("--size", "60 pounds"), "'60 pounds' is no size; write it as 60MB"),
        (("--size", "9" * 400), "no file is as large"),
        (("--tolerance", "some"), "'some' is no tolerance; write 0.5pt"),
        (("--size", "1MB", "--ratio", "0.5"), "it names a size once"),
        (("--size", "1MB", "--runs", "3"), "Several --runs look for the smallest file within a --tolerance"),
        (("--tolerance", "0.000000001", "--runs", "2"), "The original itself reaches this goal"),
        (("--size", "9"), "The smallest file that is possible here"),
        (("--size", "1MB"), "there is nothing to do"),
        (("--ratio", "0.5", "--families", "magic"), "The profile has no family 'magic'; it has"),
        (("--ratio", "0.5", "--families", "quantization,"), "The profile has no family ''; it has"),
    ],
)
def test_a_budget_that_cannot_be_gets_a_sentence_and_leaves_nothing(given, profiled, budget, sentence):
    words = [given / "recipe.yaml" if each == "RECIPE" else each for each in budget]
    files = ["--data", given / "data.npz", "--out", given / "out", "--quiet"]
    refused = CliRunner().invoke(pare, ["compress", *map(str, [given / "mlp.pt", *files, *words])])
    assert sentence in f"{refused.output} {refused.exception}"
    assert not (given / "out").exists()


def test_a_format_that_fails_leaves_the_others_in_the_folder(given, monkeypatch):
    """TensorFlow is found and does not start: what a run cannot know before. The fork server is this command's own."""
    monkeypatch.setattr("webapp.jobs.child.Forks", Forks)
    monkeypatch.setattr("webapp.engine.exporters.savedmodel.find_spec", lambda name: name)
    monkeypatch.setenv("PYTHONPATH", str(given / "modules"))
    (given / "modules/tensorflow").mkdir(parents=True)
    (given / "modules/tensorflow/__init__.py").write_text("raise ImportError('no such instruction')")
    wanted = ("--export", "savedmodel", "--export", "program", "--out", given / "out")
    said = call("compress", given / "mlp.pt", "--quiet", "--recipe", given / "recipe.yaml", *wanted)
    assert "exit 3" in said, said
    assert "Not delivered: model.savedmodel.zip" in said
    receipt = json.loads((given / "out/receipt.json").read_text())
    assert [row["format"] for row in receipt["undelivered"]] == ["savedmodel"]
    assert {"model.safetensors", "model.pt2"} < {path.name for path in (given / "out").iterdir()}
    assert "checks passed" in call("verify", given / "out")


def test_the_help_lists_the_formats():
    said = " ".join(call("compress", "--help").split())
    assert "compressed_tensors" in said
    assert "gguf (GGUF)" in said


def test_another_checkpoint_of_the_same_name_can_teach(given):
    torch.manual_seed(1)
    (given / "teacher").mkdir()
    wider = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 4))
    torch.save(wider.state_dict(), given / "teacher/mlp.pt")
    distil = {"technique": "distillation", "settings": {"epochs": 1, "hidden_weight": 1.0}}
    (given / "recipe.yaml").write_text(json.dumps({"version": 1, "steps": [distil]}))
    recipe, data = ("--recipe", given / "recipe.yaml"), ("--data", given / "data.npz")
    out, teacher = ("--out", given / "out"), ("--teacher", given / "teacher/mlp.pt")
    said = call("compress", given / "mlp.pt", "--quiet", *recipe, *data, *out, *teacher)
    assert "exit 0" in said, said
    provenance = json.loads((given / "out/receipt.json").read_text())["provenance"]
    digests = {provenance[key]["digest"] for key in ("checkpoint", "teacher_checkpoint")}
    assert len(digests) == 2


def test_images_are_prepared_as_a_file_says(given):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2))
    torch.save(module.state_dict(), given / "cnn.pt")
    with zipfile.ZipFile(given / "pets.zip", "w") as archive:
        for n in range(8):
            archive.writestr(f"{'ab'[n % 2]}/{n}.png", tone(100 * (n % 2) + 50, seed=n))
    (given / "how.yaml").write_text("resize: pad\nmean: [0.5, 0.25, 0]\n")
    files = {"--recipe": "recipe.yaml", "--data": "pets.zip", "--preprocessing": "how.yaml", "--out": "out"}
    said = call("compress", given / "cnn.pt", "--quiet", *(x for k, v in files.items() for x in (k, given / v)))
    assert "exit 0" in said, said
    told = json.loads((given / "out/receipt.json").read_text())["provenance"]["preprocessing"]
    assert (told["resize"], told["mean"], told["height"]) == ("pad", [0.5, 0.25, 0.0], 8)
    (given / "how.yaml").write_text("- pad")
    files["--out"] = "again"
    said = call("compress", given / "cnn.pt", "--quiet", *(x for k, v in files.items() for x in (k, given / v)))
    assert "how.yaml must name settings and their values" in said


def test_verify_notices_one_changed_byte(given):
    compress(given)
    path = given / "out/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    said = call("verify", given / "out")
    assert "FAILED  model.safetensors: has another sha256" in said
    assert "exit 1" in said


@pytest.mark.parametrize("name", ["../recipe.yaml", "/dev/zero"])
def test_verify_reads_nothing_outside_the_folder(given, name):
    (given / "out").mkdir()
    receipt = {"artifacts": [{"name": name, "digest": "0" * 64}], "bytes": {}, "parameters": {}}
    (given / "out/receipt.json").write_text(json.dumps(receipt))
    said = call("verify", given / "out")
    assert "is not a receipt that this version of Pare reads" in said
    assert "exit 1" in said


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"--export": "onx"}, "There is no export 'onx'"),
        ({"--data": "wide.npz"}, "wide cannot be used. Its samples have shape [9]"),
        ({"--teacher": "mlp.pt"}, "No step of the recipe learns from a teacher"),
        ({"--recipe": "calibrates.yaml", "--data": None}, "GPTQ depends on how the layers are wired"),
        ({"--recipe": "bits.yaml"}, "The pattern 'lm_head' matches no layer"),
    ],
)
def test_what_page_and_api_refuse_is_refused_before_anything_runs(given, changed, sentence):
    np.savez(given / "wide.npz", x=np.zeros((20, 9), np.float32), y=np.arange(20) % 4)
    (given / "calibrates.yaml").write_text("version: 1\nsteps: [{technique: gptq}]")
    bits = {"technique": "weight_quantization", "settings": {"bits_by_layer": "lm_head=8"}}
    (given / "bits.yaml").write_text(json.dumps({"version": 1, "steps": [bits]}))
    options = {"--recipe": "recipe.yaml", "--data": "data.npz", "--out": "out"} | changed
    named = {key: value if key == "--export" else given / value for key, value in options.items() if value}
    words = ["compress", given / "mlp.pt", "--quiet", *(each for pair in named.items() for each in pair)]
    refused = CliRunner().invoke(pare, [str(word) for word in words]).exception
    assert isinstance(refused, PareError)
    assert sentence in refused.message
    assert not (given / "out").exists()


def test_a_bad_recipe_stops_before_anything_is_made(given):
    (given / "recipe.yaml").write_text("steps:\n- technique: magnitude_pruning\n  settings: {sparsity: 1.5}\n")
    result = CliRunner().invoke(
        pare, ["compress", str(given / "mlp.pt"), "--recipe", str(given / "recipe.yaml"), "--out", str(given / "out")]
    )
    assert result.exit_code != 0
    assert "sparsity" in str(result.exception)
    assert "(line 3)" in str(result.exception)
    assert not (given / "out").exists()


def test_inspect_lists_the_tensors(given):
    said = call("inspect", given / "mlp.pt")
    assert "0.weight" in said
    assert "32 × 16" in said


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder in shards, with a tokenizer; and how each of its files was."""
    path = tmp_path / "llama"
    build_tiny("LlamaForCausalLM", "llama").bfloat16().save_pretrained(path, max_shard_size="10KB")
    write_tokenizer(path)
    return path


def test_a_folder_is_a_checkpoint_and_stays_as_it_is(folder, tmp_path):
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert call("inspect", folder).startswith("llama: huggingface, ")
    shard = next(folder.glob("*-of-*.safetensors"))
    assert "LlamaForCausalLM" in call("inspect", shard)
    recipe = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    out = tmp_path / "out"
    export = ("--export", "compressed_tensors")
    said = call("compress", folder, "--recipe", tmp_path / "recipe.yaml", "--out", out, *export, "--quiet")
    assert "exit 0" in said
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    assert {"model.safetensors", "config.json", "tokenizer.json", "receipt.json"} < {
        path.name for path in out.iterdir()
    }
    assert not (out / "weights").exists()
    assert "exit 0" in call("verify", out)
    receipt = json.loads((out / "receipt.json").read_text())
    assert not [row["name"] for row in receipt["artifacts"] if row["name"].startswith("weights/")]
    [archive] = out.glob("*.zip")
    assert not [name for name in zipfile.ZipFile(archive).namelist() if "/weights/" in name]


def test_inspect_refuses_with_the_engine_s_sentence(given):
    (given / "bad.safetensors").write_bytes(b"\xff" * 100)
    assert "exit 1" in call("inspect", given / "bad.safetensors")
