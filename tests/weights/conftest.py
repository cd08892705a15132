"""A hub on loopback, and a machine that has nothing yet."""

import pytest
from fakehub import Hub

SETTINGS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH",
    "HUGGINGFACE_HUB_CACHE", "VITRAIL_WEIGHTS", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY",
)  # fmt: skip


@pytest.fixture
def hub(own_folder, monkeypatch):
    """An empty hub; the caches are empty folders of the test."""
    from vitrail.weights.remote import download, web

    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(own_folder / name.lower()))
    monkeypatch.setattr(web, "PAUSE_S", 0.001)
    monkeypatch.setattr(download, "PIECE", 2**14)
    with Hub() as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        yield started
