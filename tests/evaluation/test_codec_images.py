"""Images of a comparison: mosaics without a gap, pixels without data, and pooled scores."""

import math

import numpy as np
import pytest

from hook.evaluation.codec_images import (
    Decoded,
    Images,
    fill_invalid,
    run_image_codec,
    score_images,
)
from hook.evaluation.rates import IMAGE_CODECS, from_mosaic, to_mosaic


def images(*arrays, valid=None, data_range=2000):
    return Images("test", list(arrays), list(valid or [None] * len(arrays)), data_range)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 35, 37, 397, 400, 407, 3000])
def test_mosaics_have_no_gap(count):
    tiles = images(*np.zeros((count, 1, 2, 2)))
    sheets = [range(count)[sheet] for sheet in tiles.sheets]
    assert [number for sheet in sheets for number in sheet] == list(range(count))
    assert all(len(sheet) <= 400 for sheet in sheets)
    assert count < 400 or len(sheets[0]) == 400
    asked = []
    codec = IMAGE_CODECS["jpeg2000"]

    class Spy:
        name, decode, takes = codec.name, lambda _, file: file, codec.takes

        def within(self, mosaic, budget):
            asked.append(mosaic.shape)
            return mosaic, 0.0

    decoded = run_image_codec(Spy(), tiles, 1.0)
    assert len(decoded.arrays) == count
    for (_, height, width), sheet in zip(asked, sheets, strict=True):
        assert height * width == 4 * len(sheet)
        assert width <= 4.2 * height or len(sheet) < 20


def test_a_mosaic_is_taken_apart_again(rng):
    tiles = rng.integers(0, 255, (6, 2, 3, 4))
    assert np.array_equal(from_mosaic(to_mosaic(tiles, 3), 6, 3), tiles)


def test_pixels_without_data_cost_image_codecs_nothing(rng):
    smooth = np.add.outer(np.arange(96.0), np.arange(96.0))
    image = np.stack([900 + 2 * smooth, 700 + smooth]).round().astype(np.float32)
    valid = np.ones((96, 96), bool)
    valid[:, ::7] = False
    psnr = {}
    for nodata in (-9999.0, 1000.0, math.nan):
        holes = np.where(valid, image, np.float32(nodata))
        one = images(fill_invalid(holes, valid), valid=[valid])
        decoded = run_image_codec(IMAGE_CODECS["jpeg2000"], one, 2.0)
        psnr[nodata] = score_images(one, decoded)["PSNR"].mean
    assert len(set(psnr.values())) == 1 and psnr[1000.0] > 50
    assert fill_invalid(image, None) is image
    mean = np.rint(image[:, valid].mean(axis=1))
    assert (fill_invalid(holes, valid)[:, ~valid] == mean[:, None]).all()


def test_the_pooled_psnr_is_that_of_all_valid_pixels():
    small, large = np.full((2, 16, 16), 500.0), np.full((2, 64, 64), 500.0)
    region = [np.ones((16, 16), bool), np.zeros((64, 64), bool)]
    region[1][:8] = True
    both = images(small, large)
    both.regions["edge"] = region
    row = score_images(both, Decoded("codec", [small + 40, large + 4], None, (0.0, 0.0)))
    error = (256 * 40**2 + 4096 * 4**2) / (256 + 4096)
    assert row["PSNR of all"].mean == pytest.approx(10 * np.log10(2000**2 / error))
    error = (256 * 40**2 + 512 * 4**2) / (256 + 512)
    assert row["edge PSNR"].mean == pytest.approx(10 * np.log10(2000**2 / error))
    each = 10 * np.log10(2000**2 / np.array([40.0**2, 4.0**2]))
    assert row["PSNR 2"].mean == pytest.approx(each.mean()) and "SSIM 1" in row
