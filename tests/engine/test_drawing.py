"""Pictures: band choice, stretch, colours, panels."""

import numpy as np
from PIL import Image

from hook.engine.drawing import (
    choose_rgb,
    colour_classes,
    colour_tokens,
    draw_panels,
    save_png,
    to_rgb,
)


def test_rgb_bands():
    assert choose_rgb(("B02", "B03", "B04", "B08"), 4) == (2, 1, 0)
    assert choose_rgb(("nir", "red", "green", "blue"), 4) == (1, 2, 3)
    assert choose_rgb(None, 4) == (0, 1, 2)
    assert choose_rgb(None, 2) == (0, 0, 0)


def test_stretch_of_any_range_and_invalid_pixels():
    image = np.linspace(-3000, 9000, 3 * 100).reshape(3, 10, 10)
    image[:, 0, 0] = np.nan
    valid = np.ones((10, 10), bool)
    valid[9, 9] = False
    rgb = to_rgb(image, valid)
    assert rgb.dtype == np.uint8
    assert rgb[0, 0].tolist() == rgb[9, 9].tolist() == [255, 255, 255]
    assert rgb[0, 1, 0] == 0
    inside = rgb[..., 0][valid & np.isfinite(image[0])]
    assert (np.diff(inside.astype(int)) >= 0).all()
    assert (to_rgb(np.full((1, 4, 4), 7)) == 0).all()  # a constant band does not divide by zero


def test_colours_of_classes():
    palette = [[1, 2, 3], [4, 5, 6]]
    out = colour_classes(np.array([[0, 1], [255, 1]]), palette)
    assert out[0, 0].tolist() == [1, 2, 3]
    assert out[1, 0].tolist() == [255, 255, 255]


def test_token_map_covers_the_image_and_shows_borders():
    tokens = np.array([[0, 0], [1, 1]])
    picture = colour_tokens(tokens, np.full((64, 64, 3), 90, np.uint8))
    assert picture.shape == (256, 256, 3)
    assert (picture[128] == 255).all()
    above, below = picture[64, 64].astype(int), picture[192, 64].astype(int)
    assert np.abs(above - below).max() > 40
    assert (picture[10, 10] == picture[100, 200]).all()


def test_panels_and_file(tmp_path):
    picture = np.zeros((20, 20, 3), np.uint8)
    drawn = draw_panels([("a", picture), ("b", picture)], "title", [("field", (0, 200, 0))])
    assert drawn.ndim == 3
    assert drawn.shape[1] > drawn.shape[0]
    assert (drawn == (0, 200, 0)).all(axis=2).any()  # the legend
    save_png(tmp_path / "deep" / "x.png", drawn)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "x.png")), drawn)
    assert len(list((tmp_path / "deep").iterdir())) == 1
