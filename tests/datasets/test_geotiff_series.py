"""GeoTIFFs of several dates: layers, dates, clouds, grids of coarser bands."""

import json

import numpy as np
import pytest
from mmengine.registry import DefaultScope

from hook.datasets import GeoTIFFSeries
from hook.datasets.checks import check_dataset
from hook.datasets.statistics import compute_statistics
from hook.errors import ConfigError, DataError

BANDS, DATES = ("B02", "B05"), ["2018-04-29", "2018-05-13", None]
META = dict(bands=BANDS, wavelengths=[490, 705])


@pytest.fixture
def series(tmp_path, rng, write_raster):
    """A series of three dates and two bands, 20 x 26 pixels; pixels of 0 are nodata."""
    values = rng.integers(1, 4000, (6, 20, 26), dtype=np.uint16)
    values[2:4, :4, :6] = 0  # a cloud at the second date
    write_raster(tmp_path / "images/s.tif", values, nodata=0)
    (tmp_path / "images/layers.json").write_text(json.dumps({"dates": DATES}))
    return tmp_path, values


def build(root, meta=META, **options):
    pipeline = [
        dict(type="hook.Albumentations", transforms=[dict(type="HorizontalFlip", p=1.0)]),
        dict(type="hook.PackSegSample"),
    ]
    options = dict(chip_size=8, mode="cover", pipeline=pipeline, metainfo=meta) | options
    with DefaultScope.overwrite_default_scope("hook"):
        return GeoTIFFSeries("images", data_root=str(root), **options)


def test_a_sample_has_all_dates_and_what_is_known_about_them(series):
    root, values = series
    dataset = build(root)
    packed = dataset[0]
    sample = packed["data_samples"]
    assert len(dataset) == 3 * 4 and packed["inputs"].shape == (3, 2, 8, 8)
    expected = values[:, :8, 7::-1].reshape(3, 2, 8, 8).astype(float)
    np.testing.assert_array_equal(packed["inputs"], expected)
    np.testing.assert_array_equal(sample.valid_mask.data, (expected > 0).all(axis=1))
    assert sample.dates[:2] == [17650, 17664] and np.isnan(sample.dates[2])
    assert sample.wavelengths == [490, 705] and abs(sample.resolution - 10) < 0.1


def test_statistics_and_checks_are_those_of_bands(series):
    root, values = series
    raw = build(root, pipeline=[])
    found = compute_statistics([raw], quiet=True)
    known = values.reshape(3, 2, -1).transpose(1, 0, 2).reshape(2, -1)
    known = known[:, known[0] > 0].astype(float)
    np.testing.assert_allclose(found["mean"], known.mean(axis=1))
    assert found["bands"] == [*BANDS] and found["pixels"] == 3 * 20 * 26
    statistics = dict(mean=found["mean"], std=found["std"], in_channels=2)
    assert check_dataset(build(root), **statistics) == []
    assert "bands" in str(check_dataset(build(root), in_channels=6)[0])


def test_chips_do_not_begin_within_a_coarse_pixel(series):
    root, _ = series
    box = dict(bounds=(500010, 5199810, 500250, 5199990), crs="EPSG:32633")  # from row and column 1
    dataset = build(root, align=2, mode="random", length=40, split=box, pipeline=[])
    starts = np.array([sample["geo"]["window"][:2] for sample in dataset])
    assert (starts % 2 == 0).all() and starts.min() == 2 and len(np.unique(starts, axis=0)) > 9
    assert all(sample["valid"][..., 0].all() for sample in dataset)


def test_dates_of_the_meta_or_of_the_layers(tmp_path, rng, write_raster):
    values = rng.integers(1, 9, (4, 8, 8), dtype=np.uint8)
    names = ["2020-01-01 a", "2020-01-01 b", "2020-02-01 a", "2020-02-01 b"]
    write_raster(tmp_path / "images/s.tif", values, names=names)
    assert build(tmp_path)[0]["data_samples"].dates == [18262, 18293]
    meta = META | dict(dates=[3, "1970-01-05T12:00"], scale=[1.0, 10.0])
    packed = build(tmp_path, meta)[0]
    assert packed["data_samples"].dates == [3, 4.5]
    np.testing.assert_array_equal(packed["inputs"][:, 1].flip(-1), 10.0 * values[1::2])


@pytest.mark.parametrize(
    ("meta", "text", "message"),
    [
        (META, None, "no dates"),
        (META, '{"days": [1]}', "no dates"),
        (META, '{"dates": [1, 2]}', "do not fit the dates"),
        (META, '{"dates": ["May", 2, 3]}', "not a date"),
        (META | dict(dates=[1, 2, 3, 4]), None, "do not fit the dates"),
        (META | dict(dates=[1, 2]), None, "do not fit the dates"),
    ],
)
def test_dates_that_do_not_fit(series, meta, text, message):
    root, _ = series
    (root / "images/layers.json").unlink()
    if text is not None:
        (root / "images/s.json").write_text(text)
    with pytest.raises(DataError, match=message):
        build(root, meta)


def test_options_that_do_not_fit(series):
    for options in (dict(meta=None), dict(align=3), dict(align=0)):
        with pytest.raises(ConfigError, match="metainfo"):
            build(series[0], **options)
    for dates in ([], 5, "2018-04-29"):
        with pytest.raises(ConfigError, match=r"metainfo\['dates'\]"):
            build(series[0], META | dict(dates=dates))
