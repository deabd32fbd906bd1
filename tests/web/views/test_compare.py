"""The compare page shows any runs, and all of its state is in the address."""

import csv
import io
import json
import re

import pytest
from sqlalchemy import select

from tests.web.views.page import Page
from tests.web.views.seeded import metric, seed_checkpoint, seed_dataset
from webapp.actions.compared_runs import MOST_RUNS
from webapp.actions.comparison import TABLE_RUNS
from webapp.charts import PARALLEL_RUNS
from webapp.store.models import Run, RunTag, Study


@pytest.fixture
def runs(seed):
    return [seed(name=f"run {n}", size_bytes=2000 + 1000 * n, metrics=metric(0.9 + n / 100)) for n in range(3)]


def query(runs, **more):
    pairs = [f"run={run.id}" for run in runs] + [f"{key}={value}" for key, value in more.items()]
    return "/compare?" + "&".join(pairs)


def figures(page):
    found = re.findall(r'<script type="application/json" id="figure-(\w+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def order(page, table="size"):
    body = page.split(f'id="table-{table}"')[1].split("</table>")[0]
    return re.findall(r'title="(run \d)"', body)


def test_without_runs_it_offers_them(client, runs):
    page = client.get("/compare").text
    assert all(f'value="{run.id}"' in page for run in runs)


def test_with_no_run_at_all_it_says_what_to_do(client):
    assert "No run to compare yet" in client.get("/compare").text


def test_every_chart_has_a_table_beside_it(client, runs):
    page = client.get(query(runs)).text
    assert set(figures(page)) == {"tradeoff", "parallel", "size", "time", "sparsity", "layers"}
    assert all(f'id="table-{name}"' in page for name in figures(page))


@pytest.mark.parametrize(
    ("sort", "expected"), [("asc", ["run 0", "run 1", "run 2"]), ("desc", ["run 2", "run 1", "run 0"])]
)
def test_tables_and_bars_are_sorted_as_the_address_says(client, runs, sort, expected):
    page = client.get(query(reversed(runs), sort="size_bytes", order=sort)).text
    assert order(page) == expected
    bars = figures(page)["size"]["data"][-1]
    assert [row[0] for row in bars["customdata"]] == expected


def test_headings_that_sort_keep_the_rest_of_the_address(client, runs):
    text = client.get(query(runs, x="bits_per_weight", sort="metric", layer_sort="layer")).text
    page, form = Page(text), Page(text.split('<form id="sort-runs"')[1].split("</form>")[0])
    kept = [(field["name"], field["value"]) for field in form.of("input")]
    assert [value for name, value in kept if name == "run"] == [run.id for run in runs]
    assert ("x", "bits_per_weight") in kept
    assert ("layer_sort", "layer") in kept
    assert "sort" not in dict(kept)
    asked = {button.get("value") for button in page.of("button", form="sort-runs")}
    assert {"sparsity", "-metric"} <= asked  # of what it is sorted by, the other way round
    page = client.get(query(runs, sort="-size_bytes")).text
    assert order(page) == ["run 2", "run 1", "run 0"]


def test_the_metric_can_be_chosen(client, seed):
    both = metric(0.9) | metric(25.0, "perplexity")
    page = client.get(query([seed(metrics=both), seed(metrics=both)], metric="perplexity")).text
    assert figures(page)["tradeoff"]["layout"]["yaxis"]["autorange"] == "reversed"
    assert '<option value="metric.perplexity" selected>' in page


def test_runs_that_cannot_be_compared_are_flagged(client, session, seed):
    other = seed(dataset=seed_dataset(session, "other.npz"), name="elsewhere")
    foreign = seed(checkpoint=seed_checkpoint(session, "larger.safetensors"), name="foreign")
    page = client.get(query([seed(), other, foreign])).text
    assert "evaluated on different datasets" in page
    assert "2 different checkpoints" in page


def test_a_run_without_result_is_counted_and_left_out(client, session, seed):
    waiting = seed(name="waiting")
    waiting.result = waiting.baseline = waiting.receipt = None
    session.commit()
    assert "1 of 2 runs has no result yet" in client.get(query([seed(), waiting])).text


def test_a_hundred_runs_are_no_problem(client, seed):
    runs = [seed(name=f"run {n}", size_bytes=1000 + n) for n in range(100)]
    assert client.get(query(runs)).status_code == 200


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"metric": "bleu"}, "metric"),
        ({"sort": "colourful"}, "sort"),
        ({"colour": "setting.gptq.bits"}, "colour"),
        ({"y": "metric.bleu"}, "y"),
        ({"zoom": "1,2,3"}, "zoom"),
        ({"layers": "some"}, "layers"),
        ({"order": "up"}, "order"),
        ({"x": "y"}, "x"),
        ({"layer_sort": "9"}, "layer_sort"),
    ],
)
def test_what_the_address_cannot_mean_is_said(client, runs, more, field):
    answer = client.get("/api/v1" + query(runs) + "".join(f"&{k}={v}" for k, v in more.items()))
    assert answer.status_code == 400
    assert answer.json["error"]["field"] == field
    assert client.get(query(runs, **more)).status_code == 400


def test_a_run_that_is_gone_is_named(client, runs):
    answer = client.get(query(runs) + "&run=abcdefghjkmn")
    assert answer.status_code == 404
    assert "abcdefghjkmn" in answer.text


def test_the_table_of_layers_is_sorted_too(client, runs):
    page = client.get(query(runs, layer_sort="layer", layer_order="desc")).text
    table = page.split('id="table-layers"')[1]
    assert table.index(">layers.2<") < table.index(">layers.0<")


def test_csv_has_the_numbers_unrounded_and_no_formula(client, seed):
    runs = [seed(name="=1+1", sparsity=1 / 3), seed(name="plain")]
    rows = list(csv.DictReader(io.StringIO(client.get("/compare.csv?" + query(runs).split("?")[1]).text)))
    assert [row["name"] for row in rows] == ["'=1+1", "plain"]
    assert float(rows[0]["sparsity"]) == 1 / 3
    assert rows[0]["metric:accuracy"] == "0.95"
    assert rows[0]["id"] == runs[0].id


def test_a_name_stays_text(client, seed):
    page = client.get(query([seed(name="</script><script>alert(1)</script>")])).text
    assert "<script>alert(1)" not in page


@pytest.fixture
def study(session, seed):
    """A sweep of two bits with two techniques each, done."""
    made = []
    for n, (technique, bits) in enumerate((t, b) for t in ("gptq", "awq") for b in (4, 2)):
        run = seed(name=f"{technique} {bits}", size_bytes=1000 * bits, metrics=metric(0.9 + bits / 100))
        run.recipe = {"version": 2, "steps": [{"technique": technique, "settings": {"bits": bits}}]}
        steps = [{**run.receipt["steps"][0], "technique": technique, "settings": {"bits": bits, "act_order": n > 1}}]
        run.receipt = {**run.receipt, "steps": steps}
        made.append(run)
    axes = [
        {"path": "steps.0.technique", "title": "Technique", "values": ["gptq", "awq"]},
        {"path": "steps.0.settings.bits", "title": "Bits", "values": [4, 2]},
    ]
    found = Study(
        name="Bits",
        kind="sweep",
        checkpoint_id=made[0].checkpoint_id,
        dataset_id=made[0].dataset_id,
        question={"axes": axes},
    )
    session.add(found)
    session.flush()
    for run in made:
        run.study_id = found.id
    session.commit()
    return found


def test_a_study_in_the_address_is_its_runs_with_a_line_for_each_technique(client, study):
    page = client.get(f"/compare?study={study.id}&colour=technique").text
    traces = {trace.get("name"): trace for trace in figures(page)["tradeoff"]["data"]}
    assert {"GPTQ", "AWQ"} < set(traces)
    sizes = traces["Runs of one study"]["x"]
    assert sizes == [2.0, 4.0, None, 2.0, 4.0, None]  # kB, by bits
    without = client.get(f"/compare?study={study.id}&lines=none").text
    assert "Runs of one study" not in {trace.get("name") for trace in figures(without)["tradeoff"]["data"]}
    assert client.get("/compare?study=abcdefghjkmn").status_code == 404


def test_a_setting_can_be_an_axis_and_the_table_has_it(client, study):
    page = client.get(f"/compare?study={study.id}&x=setting.gptq.bits&y=metric.accuracy&sort=x").text
    drawn = figures(page)["tradeoff"]
    assert [trace["x"] for trace in drawn["data"] if trace["mode"].startswith("markers")] == [[4, 2]]
    body = page.split('id="table-tradeoff"')[1].split("</table>")[0]
    assert "GPTQ: Bits" in body
    assert re.findall(r'title="(gptq \d)"', body) == ["gptq 2", "gptq 4"]


def test_a_setting_that_several_techniques_have_is_one_axis(client, study):
    found = client.get(f"/api/v1/compare?study={study.id}&x=setting.any.bits").json
    assert found["axes"]["setting.any.bits"] == "Bits, of any technique"
    assert [row["x"] for row in found["rows"]] == [4, 2, 4, 2]
    one = client.get(f"/api/v1/compare?run={study.runs[0].id}").json
    assert "setting.any.bits" not in one["axes"]  # the technique's own says the same
    head = client.get(f"/compare.csv?study={study.id}").text.splitlines()[0]
    assert "setting.any" not in head


def test_a_point_opens_its_run_and_a_zoom_is_in_the_address(client, runs):
    page = client.get(query(runs, zoom="1,4,0.8,1")).text
    drawn = figures(page)["tradeoff"]
    assert [run.id for run in runs] in [trace.get("meta", {}).get("runs") for trace in drawn["data"]]
    assert drawn["layout"]["xaxis"]["range"] == [1, 4]
    assert [field["value"] for field in Page(page).of("input", name="zoom")] == [
        "1,4,0.8,1"
    ] * 4  # controls, headings, share


def test_what_differs_between_recipes_and_what_is_the_same(client, study):
    ids = [run.id for run in study.runs][:2]
    page = client.get("/compare?" + "&".join(f"run={id_}" for id_ in ids)).text
    recipes = page.split('id="recipes"')[1].split("</section>")[0]
    differing, same = recipes.split('id="equal-settings"')
    assert re.findall(r"<td class=\"differs\">(\d)</td>", differing) == ["4", "2"]
    assert ">GPTQ<" not in differing
    assert ">GPTQ<" in same
    rows = client.get("/api/v1/compare?" + "&".join(f"run={id_}" for id_ in ids)).json["recipes"]
    assert [(row["part"], row["name"], row["values"]) for row in rows if row["differs"]] == [("Step 1", "Bits", [4, 2])]


def test_of_many_runs_a_table_has_the_settings_that_differ(client, session, seed):
    runs = [seed(name=f"run {n}") for n in range(8)]
    assert "the same recipe, data and seed" in client.get(query(runs)).text
    for n, run in enumerate(runs):
        run.seed = 10 + n
    session.commit()
    table = client.get(query(runs)).text.split('id="table-recipes"')[1].split("</table>")[0]
    assert re.findall(r"<td>(\d+)</td>", table) == [str(10 + n) for n in range(8)]


def test_layers_that_differ_stand_side_by_side(client, session, runs):
    layers = [dict(layer) for layer in runs[0].result["layers"]]
    layers[1] |= {"bits_per_weight": 4.0, "storage": "rank 7: int8"}
    runs[0].result = {**runs[0].result, "layers": layers}
    runs[1].result = {
        **runs[1].result,
        "layers": [dict(layer, stored_bytes=2500) for layer in runs[0].result["layers"]],
    }
    runs[2].result = {**runs[2].result, "layers": runs[0].result["layers"][:1]}
    session.commit()
    page = client.get(query(runs)).text
    assert "2 of 2 layers differ" in page
    assert ">7<" in page.split('id="table-layers"')[1]
    rows = client.get("/api/v1" + query(runs)).json["layers"]
    assert rows[1]["values"]["rank"] == [7, 7, None]


def test_the_csv_has_recipes_settings_seeds_dates_and_tags(client, session, study):
    first = study.runs[0]
    session.add(RunTag(run_id=first.id, tag="baseline"))
    session.commit()
    rows = list(csv.DictReader(io.StringIO(client.get(f"/compare.csv?study={study.id}").text)))
    row = next(row for row in rows if row["id"] == first.id)
    assert json.loads(row["recipe"]) == first.recipe
    assert row["setting.gptq.bits"] == "4.0"
    assert (row["seed"], row["tags"], row["study"]) == ("0", "baseline", "Bits")
    assert row["created"] == first.created_at.isoformat()
    assert float(row["time_ratio"]) == pytest.approx(1 / 1.83)


def test_runs_can_be_coloured_by_tag(client, session, runs):
    session.add(RunTag(run_id=runs[1].id, tag="baseline"))
    session.commit()
    drawn = figures(client.get(query(runs, colour="tag")).text)["tradeoff"]["data"]
    assert {"baseline", "none"} <= {trace["name"] for trace in drawn}


def test_of_hundreds_of_runs_tables_are_cut_and_say_so(client, session, seed):
    first = seed(name="run 0")
    kept = {column.key: getattr(first, column.key) for column in Run.__mapper__.column_attrs if column.key != "id"}
    session.add_all(Run(**{**kept, "name": f"run {n}"}) for n in range(1, PARALLEL_RUNS + 10))
    session.commit()
    ids = list(session.scalars(select(Run.id)))
    answer = client.get("/compare?" + "&".join(f"run={id_}" for id_ in ids))
    assert answer.status_code == 200
    assert f"show the first {TABLE_RUNS} of these {len(ids)} runs" in answer.text
    assert answer.text.split('id="table-size"')[1].split("</table>")[0].count("<tr>") == TABLE_RUNS + 1
    assert sum(len(trace["x"]) for trace in figures(answer.text)["tradeoff"]["data"]) >= len(ids)
    many = "&".join(f"run={n:012d}" for n in range(MOST_RUNS + 1))
    assert client.get(f"/api/v1/compare?{many}").json["error"]["field"] == "run"


def test_an_axis_that_no_run_has_is_named_as_what_it_is(client, session, run):
    run.baseline, run.result = run.baseline | {"metrics": {}}, run.result | {"metrics": {}}
    session.commit()
    page = Page(client.get(f"/compare?run={run.id}").text)
    assert "Accuracy against file size" in page.text
    assert "Accuracy, not measured" in page.text
