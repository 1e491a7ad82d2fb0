import numpy as np
import pytest
from PIL import Image

from hook.apis.pictures import (
    Panel,
    distinct_palette,
    draw_overview,
    region_borders,
    render_labels,
    render_tokens,
    resize_nearest,
    scale_bar_length,
    stretch_to_rgb,
)
from hook.errors import ConfigError, DataError

PALETTE = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def test_stretch_maps_percentiles_to_the_whole_range():
    image = np.linspace(0, 10000, 101).reshape(1, 1, 101).repeat(3, 0).astype(np.uint16)
    rgb = stretch_to_rgb(image, percentiles=(10, 90), gamma=1.0)
    assert rgb.dtype == np.uint8 and rgb.shape == (1, 101, 3)
    assert (rgb[0, :11] == 0).all() and (rgb[0, 90:] == 255).all()
    assert rgb[0, 50, 0] in (127, 128)


def test_stretch_puts_bands_in_order_and_leaves_out_what_is_not_valid():
    image = np.zeros((4, 3, 3), np.float32)
    image[2] = np.arange(9).reshape(3, 3)  # red
    image[2, 0, 0], image[3, 0, 1] = np.nan, np.nan
    valid = np.ones((3, 3), bool)
    valid[2, 2] = False
    rgb = stretch_to_rgb(
        image, ("blue", "green", "red", "nir"), valid, (0, 100), 1.0, background=(9, 9, 9)
    )
    assert (rgb[0, 0] == 9).all() and (rgb[2, 2] == 9).all()
    # A hole in a band that is not shown hides nothing; the largest valid value is 7.
    assert rgb[0, 1, 0] == 0 and rgb[2, 1, 0] == 255
    assert (rgb[0, 1, 1:] == 0).all()


def test_stretch_of_an_empty_or_constant_image():
    blank = stretch_to_rgb(np.full((1, 4, 4), np.nan))
    assert (blank == 255).all()
    assert stretch_to_rgb(np.full((1, 4, 4), 7)).shape == (4, 4, 3)
    with pytest.raises(DataError, match="needs bands"):
        stretch_to_rgb(np.zeros((4, 4)))


def test_labels_get_their_colours_and_the_rest_the_background():
    labels = np.array([[0, 1, 2], [255, -1, 3]])
    rgb = render_labels(labels, PALETTE, background=(1, 2, 3))
    assert rgb[0].tolist() == [list(c) for c in PALETTE]
    assert (rgb[1] == (1, 2, 3)).all()


def test_palette_is_distinct_and_stable():
    many = distinct_palette(24)
    assert distinct_palette(6) == many[:6]
    colours = np.array(many, float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distance[~np.eye(24, dtype=bool)].min() > 12
    assert colours.min() >= 0 and colours.max() <= 255


def test_tokens_are_painted_with_borders_over_the_picture():
    tokens = np.zeros((6, 6), int)
    tokens[:, 3:], tokens[0, 0] = 2, -1
    border = region_borders(tokens)
    assert border[1:, 2].all() and not border[1:, 3:].any()
    plain = render_tokens(tokens, num_tokens=3, borders=False)
    assert plain[3, 1].tolist() == distinct_palette(3)[0]
    assert plain[3, 4].tolist() == distinct_palette(3)[2]
    assert (plain[0, 0] == 255).all()
    dark = render_tokens(tokens, np.zeros((6, 6, 3), np.uint8), 3, alpha=0.5, borders=False)
    assert abs(int(dark[3, 4, 0]) - plain[3, 4, 0] / 2) <= 1
    lined = render_tokens(tokens, num_tokens=3)
    assert lined[3, 2].min() > 180 and np.array_equal(lined[3, 4], plain[3, 4])
    with pytest.raises(DataError, match="differ in size"):
        render_tokens(tokens, np.zeros((5, 6, 3), np.uint8))


def test_resize_nearest_equals_pillow():
    labels = np.random.default_rng(0).integers(0, 9, (12, 20)).astype(np.uint8)
    for size in ((24, 40), (6, 10), (36, 10)):
        expected = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
        assert np.array_equal(resize_nearest(labels, size), np.asarray(expected))


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
