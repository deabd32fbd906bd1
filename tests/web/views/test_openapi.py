"""The document and the routes are the same, and the answers fit the document."""

import re

from hypothesis import HealthCheck, given, settings

from tests.web.views.seeded import seed_checkpoint, seed_dataset


def test_every_route_is_in_the_document_and_the_other_way_round(app, client):
    document = client.get("/api/v1/openapi.json").json
    assert document["openapi"] == "3.1.0"
    declared = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1/") and rule.rule != "/api/v1/openapi.json"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert declared == routes


def test_every_operation_says_what_it_does_and_how_it_fails(client):
    document = client.get("/api/v1/openapi.json").json
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            named = set(re.findall(r"{(\w+)}", path))
            assert named == {p["name"] for p in operation["parameters"] if p["in"] == "path"}


def test_every_reference_leads_somewhere(client):
    text = client.get("/api/v1/openapi.json").text
    schemas = client.get("/api/v1/openapi.json").json["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(schemas)


def test_the_page_for_people_lists_every_route(client):
    page = client.get("/api").text
    for path in client.get("/api/v1/openapi.json").json["paths"]:
        assert path in page


def modes_of(operation):
    """Right and wrong requests; an operation that takes nothing cannot be asked wrongly."""
    from schemathesis import GenerationMode

    takes = list(operation.iter_parameters()) or operation.body
    return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if takes else [GenerationMode.POSITIVE]


def test_answers_fit_the_document(app, session, seed):
    """Requests made up from the document: none gives a server error, every answer is one that the document names."""
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    seed()
    seed_checkpoint(session, "other.safetensors")
    seed_dataset(session, "other.npz")
    app.testing = False  # as in production: a mistake is an answer 500
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", app)
    tried = 0
    for found in schema.get_all_operations():
        tried += 1

        @given(found.ok().as_strategy())
        @settings(
            max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def answers_fit(case):
            case.call_and_validate(
                headers={"Accept-Encoding": "identity"},  # here it unpacks nothing
                checks=[not_a_server_error, response_schema_conformance, status_code_conformance],
            )

        answers_fit()
    assert tried > 20
