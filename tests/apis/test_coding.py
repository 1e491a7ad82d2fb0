"""Scenes as codes: against the bare model, and back again."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo import cog_validate

from hook.apis import decode, encode, load_model
from hook.errors import ConfigError, DataError, HookError, SceneError
from hook.geo.bands import to_model_units
from hook.inference.codes import code_grid

OPTIONS = dict(progress=False, window=64)


def image(height, width, dtype="uint16"):
    """Fields of two bands with noise, in the range of the model's training."""
    rng = np.random.default_rng(0)
    truth = np.add.outer(np.arange(height), np.arange(width)) // 17 % 3
    values = truth * 80 + 40 + rng.integers(0, 20, (2, height, width))
    return values.astype(dtype)


@pytest.fixture
def scene(write_scene):
    """A scene of uint16 with a corner and holes without data, not of whole codes."""
    values = image(150, 230)
    values[:, :21, :19] = values[:, 70:73, 100] = values[:, 149, 229] = 0
    return write_scene(values, nodata=0)


def read(path):
    with rasterio.open(path) as source:
        return source.read()


def test_codes_are_those_of_the_bare_model(codec_run, scene, tmp_path):
    out = tmp_path / "codes.tif"
    report = encode(codec_run, scene, out, max_error=1e6, **OPTIONS)
    model = load_model(codec_run)
    with rasterio.open(scene) as source, rasterio.open(out) as codes:
        values, valid = source.read(), source.dataset_mask() > 0
        assert codes.crs == source.crs and codes.shape == (38, 58)
        assert codes.transform == source.transform @ rasterio.Affine.scale(4)
        assert codes.dtypes == ("uint8",) * 3 and codes.nodata == 16  # two bands of validity
        tags, found = codes.tags(), codes.read()
    assert tags["HOOK_HEIGHT"] == "150" and tags["HOOK_NODATA"] == "0.0"
    assert tags["HOOK_MODEL"] == "tiny_codec" and len(tags["HOOK_DIGEST"]) == 64
    assert cog_validate(out, strict=True)[0]
    inputs = torch.from_numpy(to_model_units(values, valid, model.dataset_meta))
    inputs = model.data_preprocessor({"inputs": inputs[None]})["inputs"]
    with torch.no_grad():
        expected = model.encode(inputs * torch.from_numpy(valid))
    expected = expected.indices.reshape(expected.grid).numpy()
    margin = code_grid(model).margin
    inner = np.s_[margin:-margin, margin:-margin]
    has_data = found[0][inner] != 16
    assert len(np.unique(expected[inner])) > 8 and has_data.mean() > 0.9
    assert np.array_equal(found[0][inner][has_data], expected[inner][has_data])
    assert np.array_equal(found[0][:5, :4] == 16, np.ones((5, 4), bool))  # 21 x 19 pixels
    assert report.bits_per_pixel == pytest.approx(8 * out.stat().st_size / (150 * 230))


@pytest.mark.parametrize(
    "dtype, nodata", [("uint16", 0), ("int16", -9999), ("float32", np.nan), ("uint8", None)]
)
def test_a_scene_comes_back_with_all_but_its_details(
    codec_run, write_scene, tmp_path, dtype, nodata
):
    values = image(90, 131, dtype)
    if nodata is not None:
        values[:, 10:31, 7:30] = values[:, 60, 90] = nodata
    scene = write_scene(values, nodata=nodata)
    with rasterio.open(scene, "r+") as target:
        target.descriptions = ("red", "nir")
    codes, out = tmp_path / "codes.tif", tmp_path / "out.tif"
    report = encode(codec_run, scene, codes, **OPTIONS)
    decode(codes, out, model=codec_run, **OPTIONS)
    with rasterio.open(scene) as source, rasterio.open(out) as target:
        for name in ("shape", "crs", "transform", "dtypes", "descriptions"):
            assert getattr(target, name) == getattr(source, name)
        assert str(target.nodata) == str(source.nodata)
        valid = source.read_masks() > 0
        assert np.array_equal(target.read_masks() > 0, valid)
        found = target.read()
    assert cog_validate(out, strict=True)[0]
    error = np.where(valid, found.astype(float) - values, 0)
    rmse = np.sqrt(np.square(error).sum(axis=(1, 2)) / valid.sum(axis=(1, 2)))
    np.testing.assert_allclose(report.rmse, rmse, rtol=1e-9)
    assert report.bands == ("red", "nir") and (rmse > 1).all()
    peak = np.where(valid, values, 40).max(axis=(1, 2)) - 40
    np.testing.assert_allclose(report.psnr, 20 * np.log10(peak / rmse), rtol=1e-6)
    assert "red: RMSE" in str(report)


@pytest.mark.parametrize("given, found", [(None, "nan"), (77, "77.0")])
def test_the_nodata_value_of_a_scene_outlives_that_of_the_model(
    codec_run, write_scene, tmp_path, given, found
):
    values = image(40, 50, "float32")
    values[:, :9] = np.nan
    model = load_model(codec_run)
    model.dataset_meta["nodata"] = 255
    codes, out = tmp_path / "codes.tif", tmp_path / "out.tif"
    encode(model, write_scene(values, nodata=np.nan), codes, nodata=given, **OPTIONS)
    decode(codes, out, model=model, **OPTIONS)
    with rasterio.open(out) as target:
        assert str(target.nodata) == found
        assert np.array_equal(target.read_masks(1) > 0, np.isfinite(values[0]))


def test_scale_tags_and_a_mask_band(codec_run, write_scene, tmp_path):
    values = image(60, 70)
    values = np.concatenate([values, np.full_like(values[:1], 255)])
    values[2, 20:33] = 0
    scene = write_scene(values, photometric="rgb", alpha="yes")
    codes, out = tmp_path / "codes.tif", tmp_path / "out.tif"
    with rasterio.open(scene, "r+") as target:
        target.colorinterp = [*target.colorinterp[:2], rasterio.enums.ColorInterp.alpha]
        target.descriptions = ("red", "nir", "alpha")
        target.scales, target.offsets = (0.5, 0.5, 1), (10, 10, 0)
    report = encode(codec_run, scene, codes, **OPTIONS)
    decode(codes, out, model=codec_run, **OPTIONS)
    with rasterio.open(out) as target:
        assert target.count == 2 and target.scales == (0.5, 0.5) and target.offsets == (10, 10)
        assert target.nodata == 0 and (target.read() == 0).sum() == 2 * 13 * 70
        error = (target.read() - values[:2].astype(float))[:, values[2] > 0]
    np.testing.assert_allclose(report.rmse, np.sqrt(np.square(error).mean(axis=1)), rtol=1e-9)


def test_any_part_is_the_same_as_in_the_whole(codec_run, scene, tmp_path):
    codes, whole = tmp_path / "codes.tif", tmp_path / "whole.tif"
    encode(codec_run, scene, codes, **OPTIONS)
    decode(codes, whole, model=codec_run, **OPTIONS)
    expected, all_codes = read(whole), read(codes)
    with rasterio.open(scene) as source:
        transform = source.transform
    rng = np.random.default_rng(1)
    for number in range(6):
        row, col = rng.integers(0, 140), rng.integers(0, 220)
        height, width = rng.integers(1, 150 - row + 1), rng.integers(1, 230 - col + 1)
        left, top = transform @ (col, row)
        right, bottom = transform @ (col + width, row + height)
        options = OPTIONS | dict(bounds=(left, bottom, right, top), overwrite=True)
        decode(codes, tmp_path / "part.tif", model=codec_run, **options)
        part = read(tmp_path / "part.tif")
        assert np.array_equal(part, expected[:, row : row + height, col : col + width])
        with rasterio.open(tmp_path / "part.tif") as source:
            assert source.transform.c == pytest.approx(left) and source.crs.to_epsg() == 32645
        if number < 3:
            encode(codec_run, scene, tmp_path / "part_codes.tif", **options)
            part = read(tmp_path / "part_codes.tif")
            cells = np.s_[row // 4 : -(-(row + height) // 4), col // 4 : -(-(col + width) // 4)]
            assert np.array_equal(part[0], all_codes[0][cells])


def test_codes_do_not_depend_on_the_blocks(codec_run, scene, tmp_path):
    codes, decoded = [], []
    for number, options in enumerate(
        (dict(window=64), dict(window=200), dict(window=64, batch_size=3), dict(window=32))
    ):
        path, out = tmp_path / f"{number}.tif", tmp_path / f"{number}.out.tif"
        encode(codec_run, scene, path, progress=False, errors=number > 0, **options)
        decode(path, out, model=codec_run, progress=False, **options)
        codes.append(read(path))
        decoded.append(read(out).astype(int))
    assert all(np.array_equal(one, codes[0]) for one in codes)
    assert max(np.abs(one - decoded[0]).max() for one in decoded) <= 1  # of rounding


def test_pixels_of_the_scene_are_counted_and_windows_end_with_it(codec_run, scene, tmp_path):
    codes, out = tmp_path / "codes.tif", tmp_path / "out.tif"
    options = dict(progress=False, window=10**9)
    report = encode(codec_run, scene, codes, **options)
    valid = int((read(scene) != 0).all(axis=0).sum())
    decoded = decode(codes, out, model=codec_run, **options)
    assert report.pixels == decoded.pixels == valid  # not those of whole codes
    with rasterio.open(scene) as source:
        left, top = source.transform @ (190, 100)
        right, bottom = source.transform @ (230, 150)
    bounds = (left, bottom, right, top)
    part = decode(codes, tmp_path / "part.tif", model=codec_run, bounds=bounds, **OPTIONS)
    assert part.pixels == 50 * 40 - 1
    assert np.array_equal(read(tmp_path / "part.tif") > 0, read(out)[:, 100:, 190:] > 0)


def test_arrays_in_and_out(codec_run, scene, tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    encode(codec_run, scene, tmp_path / "codes.tif", **OPTIONS)
    decode(tmp_path / "codes.tif", tmp_path / "out.tif", model=codec_run, **OPTIONS)
    codes = encode(codec_run, rioxarray.open_rasterio(scene), **OPTIONS)
    assert np.array_equal(codes.values, read(tmp_path / "codes.tif"))
    assert codes.rio.crs.to_epsg() == 32645 and codes.attrs["HOOK_MODEL"] == "tiny_codec"
    back = decode(codes, model=codec_run, **OPTIONS)
    assert np.array_equal(back.values, read(tmp_path / "out.tif")) and back.rio.nodata == 0
    plain = encode(codec_run, image(64, 64), **OPTIONS)
    assert plain.shape == (1, 16, 16)
    assert decode(plain, model=load_model(codec_run), **OPTIONS).shape == (2, 64, 64)
    with pytest.raises(DataError, match="the array: is not a file of codes"):
        decode(plain.values, model=codec_run)
    for turned in (codes.sortby("y"), codes.sortby("x", ascending=False)):
        with pytest.raises(DataError, match="the array: its rows or columns are not those"):
            decode(turned, model=codec_run)
    with pytest.raises(DataError, match="its pixels are not the codes") as caught:
        decode(codes[:1], model=codec_run)  # without the valid pixels
    assert "expected: 3 bands" in str(caught.value)


def test_packed_codes_decode_to_the_same(codec_run, scene, tmp_path):
    pytest.importorskip("constriction", reason="the codecs extra is not installed")
    plain, packed = tmp_path / "codes.tif", tmp_path / "codes.hkc"
    encode(codec_run, scene, plain, **OPTIONS)
    report = encode(codec_run, scene, packed, entropy=True, **OPTIONS)
    assert report.size == packed.stat().st_size < plain.stat().st_size
    for path in (plain, packed):
        decode(path, tmp_path / f"{path.name}.tif", model=codec_run, **OPTIONS)
    assert np.array_equal(read(tmp_path / "codes.tif.tif"), read(tmp_path / "codes.hkc.tif"))
    again = decode(packed, tmp_path / "codes.hkc.tif", model=codec_run, resume=True, **OPTIONS)
    assert again.finished_before


@pytest.mark.parametrize("entropy", [False, True])
def test_bytes_are_foretold(codec_run, write_scene, tmp_path, entropy):
    if entropy:
        pytest.importorskip("constriction", reason="the codecs extra is not installed")
    scene = write_scene(image(700, 900), nodata=0)
    codes, out = tmp_path / f"codes.{'hkc' if entropy else 'tif'}", tmp_path / "out.tif"
    estimate = encode(codec_run, scene, codes, entropy=entropy, dry_run=True, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]
    encode(codec_run, scene, codes, entropy=entropy, **OPTIONS)
    assert estimate.disk_bytes == pytest.approx(codes.stat().st_size, rel=0.2)
    estimate = decode(codes, out, model=codec_run, dry_run=True, **OPTIONS)
    decode(codes, out, model=codec_run, **OPTIONS)
    assert estimate.disk_bytes == pytest.approx(out.stat().st_size, rel=0.2)
    assert "until the file is complete" in str(estimate)


KILLED = """
import os, signal, sys
from hook.apis import decode, encode, load_model
from hook.inference import codes

config, checkpoint, input, output, batches = sys.argv[1:]
count = iter(range(int(batches)))
for kind in (codes.WindowEncoder, codes.WindowDecoder):
    def call(self, *arguments, function=kind.__call__):
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(self, *arguments)
    kind.__call__ = call
options = dict(window=32, block_windows=4, resume=True, progress=False, threads=1)
if input.endswith("scene.tif"):
    encode((config, checkpoint), input, output, **options)
else:
    decode(input, output, model=(config, checkpoint), **options)
"""


def test_killed_runs_go_on_with_the_same_bytes(codec_run, scene, tmp_path):
    def start(input, output, batches):
        arguments = [*codec_run, input, tmp_path / output, batches]
        return subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)]).returncode

    codes = tmp_path / "codes.tif"
    for input, name in ((scene, "codes"), (codes, "out")):
        assert start(input, f"{name}.tif", 10**6) == 0
        for batches in (13, 20):  # of 40, in blocks of eight
            assert start(input, f"{name}_killed.tif", batches) == -signal.SIGKILL
            assert not (tmp_path / f"{name}_killed.tif").exists()
        assert start(input, f"{name}_killed.tif", 10**6) == 0
        killed = (tmp_path / f"{name}_killed.tif").read_bytes()
        assert killed == (tmp_path / f"{name}.tif").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_workers_write_the_same_bytes(codec_run, scene, tmp_path):
    pytest.importorskip("distributed", reason="the cluster extra is not installed")
    options = dict(window=32, block_windows=4, progress=False, threads=1)
    for name, more in (("one", {}), ("two", dict(cluster="local", workers=2))):
        codes = tmp_path / f"{name}.tif"
        report = encode(codec_run, scene, codes, **options, **more)
        decode(codes, tmp_path / f"{name}.out.tif", model=codec_run, **options, **more)
    assert report.windows == 40 and report.rmse
    for ending in ("tif", "out.tif"):
        one, two = (tmp_path / f"{name}.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_values_outside_the_training_data_are_counted(codec_run, write_scene, tmp_path):
    values = image(64, 64)
    values[0, :10, :10] = 5000
    with pytest.warns(UserWarning, match=r"100 values \(1.22 %\) outside the range"):
        report = encode(codec_run, write_scene(values), tmp_path / "codes.tif", **OPTIONS)
    assert report.outside == 100


def test_what_is_worse_than_allowed_is_not_written(codec_run, scene, tmp_path):
    out = tmp_path / "codes.tif"
    with pytest.raises(DataError, match="worse than max_error"):
        encode(codec_run, scene, out, max_error=0.5, **OPTIONS)
    assert not out.exists()
    report = encode(codec_run, scene, out, max_error=1e6, resume=True, **OPTIONS)
    assert report.resumed_windows == report.windows and 0.5 < max(report.rmse) < 1e6


def test_a_scene_without_data(codec_run, write_scene, tmp_path):
    scene = write_scene(np.zeros((2, 70, 70), np.uint16), nodata=0)
    with pytest.warns(UserWarning, match="no valid pixel"):
        report = encode(codec_run, scene, tmp_path / "codes.tif", **OPTIONS)
    assert np.isnan(report.rmse).all() and np.isnan(report.psnr).all()
    decode(tmp_path / "codes.tif", tmp_path / "out.tif", model=codec_run, **OPTIONS)
    assert report.empty_windows == report.windows and not read(tmp_path / "out.tif").any()


@pytest.fixture
def codes(codec_run, scene, tmp_path):
    encode(codec_run, scene, tmp_path / "codes.tif", **OPTIONS)
    return tmp_path / "codes.tif"


def cut(path):
    path.write_bytes(path.read_bytes()[:-400])


def change_a_code(path):
    values = read(path)
    values[0, 20, 20] = 99
    with rasterio.open(path) as source:
        profile, tags = source.profile, source.tags()
    with rasterio.open(path, "w", **profile | dict(driver="GTiff")) as target:
        target.write(values)
        target.update_tags(**tags)


def forget_the_place(path):
    values = read(path)
    with rasterio.open(path) as source:
        profile, tags = source.profile, source.tags()
    path.unlink()
    with rasterio.open(path, "w", **profile | dict(crs=None, transform=None)) as target:
        target.write(values)
        target.update_tags(**tags)


@pytest.mark.filterwarnings("ignore:.*not georeferenced", "ignore:.*has no geotransform")
@pytest.mark.parametrize(
    "damage, error, words",
    [
        (cut, HookError, "codes.tif"),
        (forget_the_place, DataError, "its rows or columns are not those of its tags"),
        (change_a_code, DataError, "a code that the model does not have"),
        (lambda path: shutil.copy(path.with_name("scene.tif"), path), DataError, "not a file of"),
        (lambda path: path.unlink(), DataError, "no such file"),
    ],
)
def test_bad_codes_are_refused(codec_run, codes, tmp_path, damage, error, words):
    damage(codes)
    with pytest.raises(error) as caught:
        decode(codes, tmp_path / "out.tif", model=codec_run, **OPTIONS)
    assert words in str(caught.value) and caught.value.remedy
    assert not (tmp_path / "out.tif").exists()


def test_codes_of_another_model_or_of_none(codec_run, codes, seg_run, tiny, tmp_path):
    out = tmp_path / "out.tif"
    other = tiny.write_checkpoint(codec_run[0], tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="those of another model"):
        decode(codes, out, model=(codec_run[0], other), **OPTIONS)
    with pytest.raises(ConfigError, match="not a published one"):
        decode(codes, out, **OPTIONS)
    with pytest.raises(ConfigError, match="has no codes"):
        encode(seg_run, tmp_path / "scene.tif", out, **OPTIONS)
    with pytest.raises(ConfigError, match="bidx"):
        decode(codes, out, model=codec_run, bidx=[1], **OPTIONS)
    with pytest.raises(DataError, match="different number of bands"):
        encode(codec_run, codes, out, bidx=[1, 2, 3], **OPTIONS)
    with pytest.raises(DataError, match="bounds: outside the scene"):
        decode(codes, out, model=codec_run, bounds=(0, 0, 1, 1), **OPTIONS)
    with pytest.raises(SceneError, match="exists already"):
        decode(codes, codes.with_name("scene.tif"), model=codec_run, **OPTIONS)
    assert not out.exists()
