"""Arrays to pictures: band choice, stretch, colours, borders, files."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hook.errors import ConfigError, DataError
from hook.geo.staging import save_png
from hook.geo.styles import distinct_palette
from hook.tokenizers.assignment import resize_nearest
from hook.visualization.drawing import (
    choose_rgb,
    enlarge,
    figure_to_rgb,
    highlight_token,
    label_positions,
    luminance,
    outline_tokens,
    region_borders,
    remove_fragments,
    render_attention,
    render_labels,
    render_tokens,
    stretch_limits,
    stretch_to_rgb,
    token_shares,
)

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


def _halves() -> tuple[np.ndarray, np.ndarray]:
    """Token 4 left and token 1 right of a middle grey picture, and a corner of nobody's."""
    tokens = np.full((40, 60), 4)
    tokens[:, 30:], tokens[:10, :10] = 1, -1
    return tokens, np.full((40, 60, 3), 128, np.uint8)


def test_outlines_lie_inside_their_regions_along_the_borders():
    tokens, image = _halves()
    lined = outline_tokens(tokens, image, width=2, rim=1)
    colours = distinct_palette(5)
    # From the border inwards: rim, two pixels of the line, rim, and the picture again.
    left, right = lined[20, 29:24:-1].tolist(), lined[20, 30:35].tolist()
    for line, token in ((left, 4), (right, 1)):
        dark = bool(luminance(np.array(colours[token])) > 0.18)
        rim = [0, 0, 0] if dark else [255, 255, 255]
        assert line == [rim, colours[token], colours[token], rim, [128] * 3]
    assert lined[20, 0].tolist() == left[0] and lined[20, 1].tolist() == colours[4]  # closed
    assert (lined[:10, :10] == 128).all()  # nobody's
    changed = (lined != image).any(-1)
    inner = np.zeros(tokens.shape, bool)
    inner[14:36, 4:26] = inner[4:36, 34:56] = True
    assert not changed[inner].any() and changed[~inner & (tokens >= 0)].any()


def test_a_token_has_one_colour_whatever_the_others():
    tokens, image = _halves()
    both = outline_tokens(tokens, image, tint=0.5)
    alone = outline_tokens(np.where(tokens == 1, 1, -1), image, tint=0.5)
    chosen = outline_tokens(tokens, image, tokens=[1], tint=0.5)
    more = outline_tokens(np.where(tokens == 4, 11, tokens), image, tint=0.5)
    for other in (alone, chosen, more):
        assert np.array_equal(both[:, 30:], other[:, 30:])
    assert np.array_equal(chosen[:, :30], image[:, :30])
    expected = np.rint(0.5 * 128 + 0.5 * np.array(distinct_palette(2)[1]))
    assert both[20, 45].tolist() == expected.tolist()


def test_outline_or_rim_shows_on_any_ground():
    tokens = np.arange(40)[:, None, None].repeat(12, 1).repeat(12, 2).reshape(40 * 12, 12)
    for ground in range(0, 256, 15):
        image = np.full((*tokens.shape, 3), ground, np.uint8)
        lined = luminance(outline_tokens(tokens, image))
        light = luminance(np.array([ground] * 3))
        for token in range(40):
            away = lined[tokens == token] + 0.05
            contrast = np.maximum(away / (light + 0.05), (light + 0.05) / away)
            assert contrast.max() > 2.1


def test_outlines_of_odd_input():
    with pytest.raises(DataError, match="differ in size"):
        outline_tokens(np.zeros((4, 4), int), np.zeros((5, 4, 3), np.uint8))
    image = np.full((6, 6, 3), 9, np.uint8)
    assert np.array_equal(outline_tokens(np.full((6, 6), -1), image), image)
    assert np.array_equal(
        outline_tokens(np.zeros((6, 6), np.uint8), image), outline_tokens(np.zeros((6, 6)), image)
    )


def test_specks_go_to_the_neighbour_with_the_longest_border():
    tokens = np.zeros((12, 12), int)
    tokens[:, 6:] = 1
    tokens[4, 4:7] = 2  # two pixels in region 0, one in region 1
    tokens[8:10, 8:10] = 3
    tokens[0, 0] = -1
    cleaned = remove_fragments(tokens, 4)
    assert (cleaned[4, 4:7] == 0).all() and (cleaned[8:10, 8:10] == 3).all()
    assert cleaned[0, 0] == -1
    same = tokens.copy()
    same[4, 4:7] = 0
    assert np.array_equal(cleaned, same)
    assert np.array_equal(remove_fragments(tokens, 1), tokens)


def test_an_area_of_specks_is_nobodys():
    tokens = np.zeros((12, 12), int)
    rows, cols = np.indices((6, 6))
    tokens[3:9, 3:9] = 1 + (rows + cols) % 2
    cleaned = remove_fragments(tokens, 4)
    assert (cleaned[3:9, 3:9] == -1).all() and (cleaned[:3] == 0).all()
    assert (remove_fragments(tokens, 1000) == -1).all()


def test_specks_have_their_tint_and_no_lines():
    tokens = np.zeros((40, 40), int)
    tokens[20, 20] = 1
    image = np.full((40, 40, 3), 128, np.uint8)
    lined = outline_tokens(tokens, image, tint=0.5, min_size=4)
    ground = [np.rint(64 + 0.5 * np.array(c)).tolist() for c in distinct_palette(2)]
    assert lined[20, 20].tolist() == ground[1] and lined[20, 21].tolist() == ground[0]


def test_highlight_leaves_the_token_as_it_is_and_darkens_the_rest():
    tokens, _ = _halves()
    image = np.random.default_rng(0).integers(60, 256, (40, 60, 3)).astype(np.uint8)
    lit = highlight_token(tokens, image, 1)
    assert np.array_equal(lit[4:36, 34:56], image[4:36, 34:56])
    grey = lit[20, :20].astype(float)
    assert (grey == grey[:, :1]).all()
    assert np.abs(grey[:, 0] - 0.4 * image[20, :20].mean(-1)).max() <= 1
    assert np.array_equal(lit[:10, :10], image[:10, :10])
    assert (lit[20, 31] == distinct_palette(2)[1]).all()


def test_heat_grows_with_attention():
    ramp = np.linspace(0, 3, 40)[None].repeat(10, axis=0)
    grey = np.full((20, 80, 3), 100, np.uint8)
    heat = render_attention(ramp, grey)
    light = luminance(heat)[10]
    assert heat.shape == (20, 80, 3)
    assert (np.diff(light) >= -1e-3).all() and light[-1] > light[0] + 0.3
    # The stated range, not the picture's own, decides the colours; beyond it there are no more.
    half = render_attention(ramp / 2, grey, limits=(0, 1.5))
    assert np.abs(half.astype(int) - heat).max() <= 1
    assert np.array_equal(
        render_attention(np.full((2, 2), 9.0), grey, (0, 1)),
        render_attention(np.ones((2, 2)), grey, (0, 1)),
    )


def test_heat_shows_the_picture_and_what_has_no_data():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 200
    valid = np.ones((8, 8))
    valid[0, 0] = 0
    heat = render_attention(np.zeros((2, 2)), image, valid=valid, alpha=0.5)
    assert (heat[0, 0] == 255).all()
    assert np.abs(heat[4, 6].astype(int) - heat[4, 1] - 100).max() <= 1
    with pytest.raises(DataError, match="one token's attention"):
        render_attention(np.zeros((3, 2, 2)), image)
    with pytest.raises(DataError, match="do not ascend"):
        render_attention(np.zeros((2, 2)), image, (1, 0))


def test_shares_are_counted_pixels():
    tokens, _ = _halves()
    shares = token_shares(tokens, 6)
    assert shares.tolist() == [0, 1200 / 2300, 0, 0, 1100 / 2300, 0]
    assert token_shares(np.full((3, 3), -1), 2).tolist() == [0, 0]


def test_roomiest_spot_is_the_middle():
    tokens = np.full((21, 40), 3)
    tokens[:, 21:] = -1
    assert label_positions(tokens) == {3: (10, 10, pytest.approx(11, abs=0.5))}


def test_enlarging_keeps_size_and_colours():
    image = np.zeros((3, 5, 3), np.uint8)
    image[:, 3:] = 200
    large = enlarge(image, 4)
    assert large.shape == (12, 20, 3) and large[6, 1].max() == 0
    assert abs(int(large[6, 18, 0]) - 200) <= 1


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
    heavy = {"matplotlib", "PIL", "torch"}
    code = f"import sys, hook.visualization.drawing; print({heavy} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "percentiles", [(90, 10), (50, 50), (-1, 101), (1,), (1, 50, 99), 3, None, "ab", ("a", "b")]
)
def test_percentiles_that_cannot_be(percentiles):
    image = np.zeros((3, 4, 4), np.uint8)
    for stretch in (stretch_to_rgb, stretch_limits):
        with pytest.raises(ConfigError, match="percentiles="):
            stretch(image, percentiles=percentiles)


def test_other_wrong_arguments_of_a_stretch():
    image = np.zeros((3, 4, 4), np.uint8)
    for gamma in ("x", 0, -1):
        with pytest.raises(ConfigError, match="gamma="):
            stretch_to_rgb(image, gamma=gamma)
    with pytest.raises(DataError, match="the size of valid differs"):
        stretch_to_rgb(image, valid=np.ones((2, 2)))
    with pytest.raises(DataError, match="needs bands"):
        stretch_to_rgb(None)


@pytest.mark.parametrize("palette", [None, 3, "x", [1, 2], [(0, 0)], [(300, 0, 0)], [(-1, 0, 0)]])
def test_palettes_that_are_none(palette):
    with pytest.raises(ConfigError, match="palette="):
        render_labels(np.zeros((2, 2), np.uint8), palette)


@pytest.mark.parametrize("labels", [None, [[0, 1]], np.array([["a"]])])
def test_labels_that_are_none(labels):
    with pytest.raises(DataError, match="labels are not class indexes"):
        render_labels(labels, [(0, 0, 0)])
