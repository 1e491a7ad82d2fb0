"""The result tables refer to existing files."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
METHODS = sorted(p.parent for p in (ROOT / "configs").glob("*/metafile.yml"))


@pytest.mark.parametrize("method", METHODS, ids=lambda path: path.name)
def test_metafile(method):
    meta = yaml.safe_load((method / "metafile.yml").read_text())
    assert (ROOT / meta["Collections"][0]["README"]).is_file()
    listed = {ROOT / model["Config"] for model in meta["Models"]}
    assert listed == set(method.glob("*.py"))
    for model in meta["Models"]:
        assert model["In Collection"] == meta["Collections"][0]["Name"]
        if "Results" in model:
            assert model["Training Log"]
        for log in model.get("Training Log", []):
            assert (ROOT / log).is_file()


@pytest.mark.parametrize("readme", ["README.md", *(f"configs/{m.name}/README.md" for m in METHODS)])
def test_links_lead_somewhere(readme):
    import re

    path = ROOT / readme
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert links
    for link in links:
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link
