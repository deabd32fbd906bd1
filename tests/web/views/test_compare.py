"""The compare page shows any runs, and all of its state is in the address."""

import csv
import io
import json
import re

import pytest

from tests.web.views.seeded import metric, seed_checkpoint, seed_dataset


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
    assert set(figures(page)) == {"tradeoff", "size", "sparsity", "layers"}
    assert all(f'id="table-{name}"' in page for name in figures(page))


@pytest.mark.parametrize(
    ("sort", "expected"), [("asc", ["run 0", "run 1", "run 2"]), ("desc", ["run 2", "run 1", "run 0"])]
)
def test_tables_and_bars_are_sorted_as_the_address_says(client, runs, sort, expected):
    page = client.get(query(reversed(runs), sort="size_bytes", order=sort)).text
    assert order(page) == expected
    bars = figures(page)["size"]["data"][-1]
    assert [row[0] for row in bars["customdata"]] == expected


def test_links_that_sort_keep_the_rest_of_the_address(client, runs):
    page = client.get(query(runs, x="bits_per_weight", sort="metric")).text
    link = re.search(r'href="(/compare\?[^"]*sort=sparsity[^"]*)"', page).group(1)
    assert "x=bits_per_weight" in link
    assert all(run.id in link for run in runs)


def test_the_metric_can_be_chosen(client, seed):
    both = metric(0.9) | metric(25.0, "perplexity")
    page = client.get(query([seed(metrics=both), seed(metrics=both)], metric="perplexity")).text
    assert figures(page)["tradeoff"]["layout"]["yaxis"]["autorange"] == "reversed"
    assert '<option value="perplexity" selected>' in page


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
        ({"sort": "x"}, "sort"),
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
