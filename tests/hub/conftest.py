"""The client of the hub, in a process whose engine has switched the hub off."""

import pytest


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
