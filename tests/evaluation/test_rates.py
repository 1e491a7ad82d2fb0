"""Files of codes against their entropy, and image codecs at given bytes."""

import numpy as np
import pytest

from hook.errors import DataError
from hook.evaluation.rates import (
    IMAGE_CODECS,
    ImageCodec,
    from_mosaic,
    installed_codecs,
    pack_codes,
    pack_token_ids,
    to_mosaic,
    unpack_codes,
    unpack_token_ids,
)

SIZES = (512, 64)


@pytest.fixture
def codes():
    """(64, 8, 8, 2) codes of skewed frequencies, most of the first table unused."""
    rng = np.random.default_rng(0)
    return np.stack([rng.geometric(0.05, (64, 8, 8)), rng.integers(0, 64, (64, 8, 8))], axis=-1)


@pytest.fixture
def picture():
    """(3, 128, 128) uint8: smooth fields with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    fields = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 15)])
    return (128 + 80 * fields + rng.normal(0, 6, fields.shape)).clip(0, 255).astype(np.uint8)


def test_codes_are_packed_near_their_entropy_with_the_table(codes):
    pytest.importorskip("constriction", reason="constriction packs codes; it is an optional extra")
    packed = pack_codes(codes, SIZES)
    np.testing.assert_array_equal(unpack_codes(packed), codes)
    bits = 0.0
    for column in codes.reshape(-1, 2).T:
        p = np.bincount(column) / len(column)
        bits -= (p[p > 0] * np.log2(p[p > 0])).sum() * len(column)
    assert bits / 8 < len(packed) < 1.02 * bits / 8 + 160  # header and two tables
    one = np.zeros((5, 1), int)
    np.testing.assert_array_equal(unpack_codes(pack_codes(one, (4,))), one)
    with pytest.raises(DataError, match="outside its codebook"):
        pack_codes(codes, (16, 64))


@pytest.mark.parametrize("count", [16, 300, 65535])
def test_maps_of_tokens_are_packed_without_loss(count):
    draws = np.random.default_rng(0)
    token_ids = draws.integers(-1, count - 1, (5, 6, 7))
    token_ids[0, 0, :2] = -1, count - 2
    np.testing.assert_array_equal(unpack_token_ids(pack_token_ids(token_ids), 5), token_ids)
    regions = np.repeat(np.repeat(draws.integers(0, 32, (4, 8, 8)), 8, axis=1), 8, axis=2)
    assert len(pack_token_ids(regions)) < regions.size * 5 / 8 / 4  # against five bits each


@pytest.mark.parametrize("name", ["jpeg", "webp", "jpeg2000", "jpeg2000pca"])
def test_an_image_codec_uses_its_budget(name, picture):
    codec = IMAGE_CODECS[name]
    errors = []
    for budget in (2500, 5000):
        file, _ = codec.within(picture, budget)
        assert 0.9 * budget < len(file) <= budget
        decoded = codec.decode(file)
        assert decoded.shape == picture.shape and decoded.dtype == np.uint8
        errors.append(np.square(decoded - picture.astype(float)).mean())
    assert errors[1] < errors[0] < 100
    assert codec.within(picture, 50) is None
    assert codec.takes(picture) and not codec.takes(picture.astype(np.float32))


@pytest.mark.parametrize("bias", [0.8, 1.0, 1.3])  # of the sizes of drafts
def test_a_slow_codec_is_tried_near_the_quality_that_drafts_find(bias):
    tried = []

    def encode(image, quality):
        tried.append(quality)
        return bytes(100 * quality + 50)

    def draft(image, quality):
        return bytes(int(bias * (100 * quality + 50)))

    codec = ImageCodec("slow", encode, bytes, (0, 100), draft=draft)
    for budget, quality in ((2070, 20), (3149, 30), (50000, 100), (249, 1), (150, 1)):
        tried.clear()
        file, seconds = codec.within(None, budget)
        assert len(file) == 100 * quality + 50 <= budget and seconds >= 0
        assert len(tried) <= 2
    assert codec.within(None, 149) is None


@pytest.mark.parametrize(("power", "most"), [(1, 5), (3, 10)])
def test_a_few_tries_find_a_quality_that_is_a_number(power, most):
    tried = []

    def encode(image, quality):
        tried.append(quality)
        return bytes(100 + int(1e5 * (quality / 60) ** power))

    codec = ImageCodec("smooth", encode, bytes, (0.01, 60.0))
    for share in (0.01, 0.1, 0.6):
        tried.clear()
        budget = 100 + 1e5 * share
        file, _ = codec.within(None, budget)
        assert 0.99 * budget < len(file) <= budget and len(tried) <= most


@pytest.mark.skipif("avif" not in installed_codecs(), reason="Pillow was built without AVIF")
def test_avif_uses_its_budget(picture):
    picture = picture[:, :64, :64]
    file, _ = IMAGE_CODECS["avif"].within(picture, 1500)
    assert 1350 < len(file) <= 1500
    decoded = IMAGE_CODECS["avif"].decode(file)
    assert np.square(decoded - picture.astype(float)).mean() < 60


def test_a_rotation_of_equal_bands_saves_their_bytes(picture):
    bands = np.repeat(picture[:1].astype(np.uint16) * 20, 12, axis=0)
    errors = []
    for name in ("jpeg2000", "jpeg2000pca"):
        codec = IMAGE_CODECS[name]
        decoded = codec.decode(codec.within(bands, 8000)[0])
        assert decoded.dtype == np.uint16
        errors.append(np.square(decoded - bands.astype(float)).mean())
    assert errors[1] < errors[0] / 2


def test_codecs_that_are_not_installed_are_left_out():
    assert {"jpeg", "jpeg2000"} <= installed_codecs().keys() <= IMAGE_CODECS.keys()


def test_a_mosaic_gives_its_tiles_back():
    tiles = np.arange(7 * 2 * 4 * 5).reshape(7, 2, 4, 5)
    mosaic = to_mosaic(tiles, 3)
    assert mosaic.shape == (2, 12, 15)
    np.testing.assert_array_equal(mosaic[:, 4:8, 5:10], tiles[4])
    np.testing.assert_array_equal(from_mosaic(mosaic, 7, 3), tiles)
