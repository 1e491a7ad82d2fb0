"""Arrays to pictures: band choice, stretch, colours, borders, files."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hook.drawing import (
    choose_rgb,
    distinct_palette,
    figure_to_rgb,
    region_borders,
    render_labels,
    render_tokens,
    resize_nearest,
    save_png,
    stretch_to_rgb,
)
from hook.errors import DataError

PALETTE = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def test_rgb_bands():
    assert choose_rgb(("B02", "B03", "B04", "B08"), 4) == (2, 1, 0)
    assert choose_rgb(("nir", "red", "green", "blue"), 4) == (1, 2, 3)
    assert choose_rgb(None, 4) == (0, 1, 2)
    assert choose_rgb(None, 2) == (0, 0, 0)


def test_stretch_maps_percentiles_to_the_whole_range():
    image = np.linspace(0, 10000, 101).reshape(1, 1, 101).repeat(3, 0).astype(np.uint16)
    rgb = stretch_to_rgb(image, percentiles=(10, 90), gamma=1.0)
    assert rgb.dtype == np.uint8 and rgb.shape == (1, 101, 3)
    assert (rgb[0, :11] == 0).all() and (rgb[0, 90:] == 255).all()
    assert rgb[0, 50, 0] in (127, 128)


def test_stretch_of_any_range_keeps_order_and_leaves_out_invalid_pixels():
    image = np.linspace(-3000, 9000, 3 * 100).reshape(3, 10, 10)
    image[:, 0, 0] = np.nan
    valid = np.ones((10, 10), bool)
    valid[9, 9] = False
    rgb = stretch_to_rgb(image, valid=valid)
    assert rgb.dtype == np.uint8
    assert rgb[0, 0].tolist() == rgb[9, 9].tolist() == [255, 255, 255]
    assert rgb[0, 1, 0] == 0
    inside = rgb[..., 0][valid & np.isfinite(image[0])]
    assert (np.diff(inside.astype(int)) >= 0).all()


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
    constant = stretch_to_rgb(np.full((1, 4, 4), 7))
    assert constant.shape == (4, 4, 3) and (constant == 0).all()
    with pytest.raises(DataError, match="needs bands"):
        stretch_to_rgb(np.zeros((4, 4)))


def test_labels_get_their_colours_and_the_rest_the_background():
    labels = np.array([[0, 1, 2], [255, -1, 3]])
    rgb = render_labels(labels, PALETTE, background=(1, 2, 3))
    assert rgb[0].tolist() == [list(c) for c in PALETTE]
    assert (rgb[1] == (1, 2, 3)).all()
    assert (render_labels(labels, PALETTE)[1] == 255).all()


def test_palette_is_distinct_and_stable():
    many = distinct_palette(45)
    assert distinct_palette(45) == many and distinct_palette(6) == many[:6]
    assert len({tuple(colour) for colour in many}) == 45
    assert all(0 <= channel <= 255 for colour in many for channel in colour)
    colours = np.array(many[:24], float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distance[~np.eye(24, dtype=bool)].min() > 12


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


def test_figure_has_the_size_and_colours_asked_for():
    from matplotlib.figure import Figure

    picture = figure_to_rgb(Figure((2.0, 1.0), dpi=50, facecolor="#0a141e"))
    assert picture.dtype == np.uint8 and picture.shape == (50, 100, 3)
    assert (picture == (10, 20, 30)).all()


def test_files_are_complete_or_absent(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    save_png(tmp_path / "deep" / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "x.png")), picture)
    labels = np.array([[0, 2], [1, 255]], np.uint8)
    colours = np.zeros((256, 3), int)
    colours[:3] = PALETTE
    save_png(tmp_path / "deep" / "x.png", labels, colours)
    indexed = Image.open(tmp_path / "deep" / "x.png")
    assert indexed.mode == "P" and np.array_equal(np.asarray(indexed), labels)
    assert np.asarray(indexed.convert("RGB"))[0, 1].tolist() == list(PALETTE[2])
    with pytest.raises(ValueError):
        save_png(tmp_path / "deep" / "y.png", labels, np.zeros((300, 3), int))
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["x.png"]


def test_importing_is_light():
    code = "import sys, hook.drawing; print({'matplotlib', 'PIL', 'torch'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "set()"
