from tests.web.views.page import Page
from webapp.engine.techniques import techniques


def test_every_technique_and_every_setting_is_documented(client):
    page = Page(client.get("/techniques").text)
    for name, technique in techniques().items():
        assert page.of("section", id=name)
        assert technique.summary in page.text
        assert page.of("a", href=technique.paper)
        differing = (technique.Settings.model_fields[each].title for each in technique.Settings.per_layer())
        assert ", ".join(differing).lower() in page.text
        for setting, field in technique.Settings.model_fields.items():
            assert setting in page.text
            assert field.description in page.text
