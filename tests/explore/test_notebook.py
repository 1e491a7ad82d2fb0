"""The page as the output of a cell."""

import re

import pytest

from hook.errors import ConfigError, SceneError
from hook.explore import opening
from hook.explore.notebook import ExplorePage

from .conftest import Client


@pytest.fixture(autouse=True)
def bundle(monkeypatch):
    """The map library of the page is there, in this process and in that of the page."""
    if not opening.BUNDLE.is_file():
        pytest.skip("needs the map library: python tools/misc/bundle_explore.py")


def test_a_cell_shows_the_page(data, tmp_path):
    out = tmp_path / "session"
    page = ExplorePage(data / "scene.tif", regions=data / "regions.parquet", out=out, height=500)
    try:
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=(\S{40,})", page.address)
        assert (
            f'src="{page.address}"' in page._repr_html_() and 'height="500"' in page._repr_html_()
        )
        client = Client(int(found[1]), None)
        answer = client.ask("/api/session", token=found[2])
        assert answer.json["regions"]["state"] in ("computing", "ready")
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*" in policy
    finally:
        page.close()
    assert page._worker.returncode is not None


def test_what_is_wrong_is_told_in_the_cell(data, tmp_path):
    with pytest.raises(SceneError, match="no regions") as caught:
        ExplorePage(data / "scene.tif", out=tmp_path / "session")
    assert "--model" in caught.value.remedy
    with pytest.raises(ConfigError, match="height"):
        ExplorePage(data / "scene.tif", height="tall")
    with pytest.raises(TypeError, match="colour"):
        ExplorePage(data / "scene.tif", colour="blue")
