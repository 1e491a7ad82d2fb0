import numpy as np
import pytest
from PIL import Image

from hook.errors import ConfigError, DataError
from hook.visualization.overview import Panel, draw_overview, scale_bar_length

PALETTE = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


@pytest.mark.parametrize(
    ("extent", "expected"), [(1536, 200), (5000, 1000), (260, 50), (4, 0.5), (999, 100)]
)
def test_scale_bar_is_round(extent, expected):
    assert scale_bar_length(extent) == pytest.approx(expected)


def test_overview_shows_every_panel_in_its_own_place(tmp_path):
    pictures = [np.full((40, 60, 3), colour, np.uint8) for colour in (*PALETTE, (90, 90, 0))]
    panels = [Panel(f"panel {k}", p) for k, p in enumerate(pictures)]
    panels[2].frame, panels[2].frame_label = (5, 30, 30, 25), "test area"
    path = draw_overview(
        tmp_path / "sub" / "overview.png",
        panels,
        ("a", "b", "c"),
        PALETTE,
        metres_per_pixel=2.0,
        title="Title",
        subtitle="Subtitle",
        attribution="Source",
        dpi=40,
    )
    image = np.asarray(Image.open(path).convert("RGB"))
    height, width = image.shape[:2]
    centre = {
        tuple(p[0, 0]): np.argwhere((image == p[0, 0]).all(-1)).mean(0) / (height, width)
        for p in pictures
    }
    first, second, third, fourth = centre.values()
    assert first[0] < third[0] and second[0] < fourth[0]
    assert first[1] < 0.5 < second[1] and third[1] < 0.5 < fourth[1]
    # Each panel fills a good part of its quarter of the page.
    for p in pictures:
        assert (image == p[0, 0]).all(-1).mean() > 0.12
    assert [f.name for f in path.parent.iterdir()] == ["overview.png"]


def test_overview_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(DataError, match="at least one panel"):
        draw_overview(tmp_path / "x.png", [])
    with pytest.raises(ConfigError, match="differ in length"):
        draw_overview(tmp_path / "x.png", [Panel("a", np.zeros((4, 4, 3), np.uint8))], ("a",), ())
    assert not list(tmp_path.iterdir())
