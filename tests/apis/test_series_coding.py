"""Time series as codes, against the bare model, and back again."""

import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config

from hook.apis import decode, encode, load_model
from hook.cli import main
from hook.errors import ConfigError, DataError, HookError, SceneError
from hook.geo.bands import to_model_units
from hook.registry import MODELS
from hook.scenes.codes import SceneCodes
from hook.tokenizers import ImageFacts

SIZES = dict(embed_dims=32, depth=1, num_heads=4, patch_size=4)
META = dict(bands=["red", "green", "swir", "nir"], wavelengths=[665, 560, 1610, 833])
DATES = ["2018-04-29", "2018-05-13", "2018-07-08T10:30"]
OPTIONS = dict(progress=False, window=16)
SHAPE = 37, 45


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Config and checkpoint of a random autoencoder of series of four bands in two groups."""
    torch.manual_seed(0)
    tokenizer = SIZES | dict(
        in_channels=4, groups=[dict(bands=[0, 3, 1]), dict(bands=[2], factor=2)]
    )
    model = dict(
        type="hook.SeriesAutoencoder",
        data_preprocessor=dict(type="hook.CodecDataPreProcessor", mean=[1000.0], std=[500.0]),
        encoder=dict(type="hook.SpaceTimeEncoder", tokenizer=tokenizer, out_channels=6),
        quantizer=dict(type="hook.FiniteScalarQuantizer", levels=[4] * 3, groups=2),
        decoder=dict(
            type="hook.SpaceTimeDecoder", in_channels=6, out_channels=4, groups=[3, 1], **SIZES
        ),
    )
    folder = tmp_path_factory.mktemp("series")
    config = Config(dict(model=model, default_scope="hook"))
    config.dump(folder / "series.py")
    built = MODELS.build(model)
    with torch.no_grad():  # of a new network, latents are small
        built.encoder.proj.weight.mul_(10)
    state = dict(state_dict=built.state_dict(), meta=dict(dataset_meta=META))
    torch.save(state, folder / "series.pth")
    return folder / "series.py", folder / "series.pth"


@pytest.fixture(scope="module")
def values():
    """(T, C, H, W) uint16; 0 in a cloud at the second date, and in a corner at all."""
    rng = np.random.default_rng(0)
    found = rng.integers(300, 2500, (3, 4, *SHAPE)).astype(np.uint16)
    found[1, :, 9:22, 14:31] = found[:, :, :3, :5] = 0
    return found


@pytest.fixture
def series(write_scene, values):
    """A file of all dates, whose layers say them."""
    path = write_scene(values.reshape(12, *SHAPE), nodata=0, transform=grid())
    with rasterio.open(path, "r+") as file:
        file.descriptions = [f"{date} {band}" for date in DATES for band in META["bands"]]
    return path


def grid():
    return rasterio.transform.from_origin(500000, 4600000, 10, 10)


def read(path):
    with rasterio.open(path) as source:
        return source.read()


def block(values, row, col, side=16):
    """A window of the scene; beyond it whole patches repeat its end, the others have no data."""
    more = [(0, -size % 4) for size in SHAPE]
    padded = np.pad(values, [(0, 0)] * 2 + more, mode="edge")
    padded = np.pad(padded, [(0, 0)] * 2 + [(0, side)] * 2)
    return padded[..., row : row + side, col : col + side]


def test_codes_and_values_are_those_of_the_bare_model(run, series, values, tmp_path):
    out, back = tmp_path / "codes.tif", tmp_path / "back.tif"
    report = encode(run, series, out, **OPTIONS)
    decode(out, back, model=run, progress=False)
    model = load_model(run)
    facts = dict(
        resolution=10.0,
        dates=torch.tensor([[17650.0, 17664, 17720 + 10.5 / 24]], dtype=torch.float64),
        wavelengths=torch.tensor(META["wavelengths"], dtype=torch.float64),
    )
    with rasterio.open(out) as file:
        assert file.shape == (10, 12) and file.count == 3 * 2 * 2 + 3 * 2  # two bytes a patch
        assert file.descriptions[:4] == (
            "2018-04-29 red+nir+green code 1",
            "2018-04-29 red+nir+green code 2",
            "2018-04-29 swir code 1",
            "2018-04-29 swir code 2",
        )
        assert file.descriptions[-1] == "2018-07-08T10:30 validity 2"
        codes = file.read()[:12].reshape(3, 2, 2, 10, 12)
    decoded = read(back).reshape(values.shape)
    seen = 0
    for row, col in ((0, 0), (0, 16), (16, 16), (32, 32)):
        part = block(values, row, col)
        valid = (part != 0).all(axis=1)
        inputs = torch.from_numpy(to_model_units(part, valid, model.dataset_meta))
        inputs = model.data_preprocessor({"inputs": inputs[None]})["inputs"]
        known = ImageFacts(torch.from_numpy(valid)[None], **facts)
        with torch.no_grad():
            packed, quantized = model.encode_series(inputs, known)
            image = model.data_preprocessor.restore(model.run(inputs, known).reconstruction)
        for place, code in zip(packed.places.tolist(), quantized.indices[0].tolist(), strict=True):
            step, y, x, group = place
            y, x = (row // 4 + y * (1 + group), col // 4 + x * (1 + group))
            if y < 10 and x < 12:
                assert codes[step, group, :, y, x].tolist() == code
                seen += 1
        expected = image.numpy().round().clip(1, 65535)
        expected = np.where(valid[:, None], expected, 0)
        inside = np.s_[..., : SHAPE[0] - row, : SHAPE[1] - col]
        found = decoded[..., row : row + 16, col : col + 16]
        expected = expected.reshape(part.shape)[inside]
        assert np.abs(found - expected).max() <= 1  # of another order of sums
    assert seen > 150
    # Codes of 8 pixels stand in the upper left place, and a cloud of whole patches has none.
    assert (codes[:, 1, :, 1::2] == 64).all() and (codes[:, 1, :, :, 1::2] == 64).all()
    assert (codes[1, 0, :, 3:5, 4:7] == 64).all() and (codes[0, 0, :, 3:5, 4:7] != 64).all()
    assert np.array_equal(decoded == 0, (values == 0).any(axis=1, keepdims=True) & (values >= 0))
    error = np.square(decoded - values.astype(float)).sum(axis=(2, 3))
    count = (values != 0).all(axis=1).sum(axis=(1, 2))[:, None]
    assert report.rmse == pytest.approx(np.sqrt(error / count).ravel(), rel=1e-6)
    assert report.bands[4:6] == ("2018-05-13 red", "2018-05-13 green") and report.pixels > 0


def test_any_part_is_the_same_as_in_the_whole(run, series, tmp_path):
    whole, back = tmp_path / "codes.tif", tmp_path / "back.tif"
    encode(run, series, whole, **OPTIONS)
    decode(whole, back, model=run, progress=False)
    box = (500000 + 170, 4600000 - 330, 500000 + 300, 4600000 - 180)
    decode(whole, tmp_path / "part.tif", model=run, bounds=box, progress=False)
    assert np.array_equal(read(tmp_path / "part.tif"), read(back)[:, 18:33, 17:30])
    with pytest.raises(ConfigError, match="window"):
        decode(whole, tmp_path / "other.tif", model=run, window=32, progress=False)
    # Blocks that are coded by themselves stay whole.
    encode(run, series, tmp_path / "some.tif", bounds=box, **OPTIONS)
    codes = SceneCodes.read(tmp_path / "some.tif")
    assert (codes.height, codes.width, codes.window) == (21, 16, 4)
    some = read(tmp_path / "some.tif")
    assert np.array_equal(some, read(whole)[:, 4:10, 4:8])


def test_files_and_arrays_of_dates_have_the_same_codes(run, series, values, write_scene, tmp_path):
    import xarray

    encode(run, series, tmp_path / "codes.tif", **OPTIONS)
    expected = read(tmp_path / "codes.tif")
    names = ("s2_20180429.tif", "s2_2018-05-13_b.tif", "last.tif")
    options = dict(nodata=0, transform=grid())
    files = [write_scene(v, n, **options) for v, n in zip(values, names, strict=True)]
    with rasterio.open(files[2], "r+") as file:
        file.descriptions = [f"{DATES[2]} {band}" for band in META["bands"]]
    encode(run, files, tmp_path / "files.tif", **OPTIONS)
    assert np.array_equal(read(tmp_path / "files.tif"), expected)
    array = xarray.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords=dict(
            time=np.array(DATES, "datetime64[ns]"),
            y=4600000 - 10 * (np.arange(SHAPE[0]) + 0.5),
            x=500000 + 10 * (np.arange(SHAPE[1]) + 0.5),
        ),
        attrs=dict(long_name=META["bands"], _FillValue=0, crs="EPSG:32645"),
    )
    codes = encode(run, array, **OPTIONS)
    assert np.array_equal(codes.values, expected)
    found = decode(codes, model=run, progress=False)
    assert found.dims == ("time", "band", "y", "x") and found.attrs["long_name"] == META["bands"]
    assert found.time.values.astype("datetime64[m]").astype(str).tolist() == [
        f"{DATES[0]}T00:00",
        f"{DATES[1]}T00:00",
        DATES[2],
    ]
    # What was decoded is a series again.
    again = encode(run, found, **OPTIONS)
    assert again.attrs["HOOK_DATES"] == codes.attrs["HOOK_DATES"]


def test_a_single_image_needs_no_date(run, values, write_scene, tmp_path):
    scene = write_scene(values[0], nodata=0, transform=grid())
    encode(run, scene, tmp_path / "codes.tif", **OPTIONS)
    assert SceneCodes.read(tmp_path / "codes.tif").dates == (None,)
    decode(tmp_path / "codes.tif", tmp_path / "back.tif", model=run, progress=False)
    back = read(tmp_path / "back.tif")
    assert back.shape == values[0].shape
    assert np.array_equal((back == 0).all(axis=0), (values[0] == 0).all(axis=0))


def test_an_array_of_one_date_keeps_its_dimension(run, values, tmp_path):
    import xarray

    coords = dict(time=np.datetime64("2018-04-29", "ns"))
    coords["y"] = 4600000 - 10 * (np.arange(SHAPE[0]) + 0.5)
    coords["x"] = 500000 + 10 * (np.arange(SHAPE[1]) + 0.5)
    attrs = dict(long_name=META["bands"], _FillValue=0, crs="EPSG:32645")
    array = xarray.DataArray(values[0], dims=("band", "y", "x"), coords=coords, attrs=attrs)
    codes = encode(run, array, **OPTIONS)
    assert codes.attrs["HOOK_DATES"] == '["2018-04-29"]'
    found = decode(codes, model=run, progress=False)
    assert found.dims == ("time", "band", "y", "x") and found.sizes["time"] == 1
    for crs in ("", None):
        with pytest.raises(DataError, match="the array: without resolution"):
            encode(run, array.assign_attrs(crs=crs), **OPTIONS)
    with pytest.raises(DataError, match="CRS is invalid"):
        encode(run, array.assign_attrs(crs="nonsense"), **OPTIONS)


def test_numbered_bands_of_files_of_a_date_are_in_order(run, values, write_scene, tmp_path):
    """As in training and in a file of all dates."""
    state = torch.load(run[1], weights_only=False)
    state["meta"]["dataset_meta"] = META | dict(bands=[4, 3, 2, 1])
    model = run[0], tmp_path / "numbered.pth"
    torch.save(state, model[1])
    options = dict(nodata=0, transform=grid())
    files = [write_scene(v, f"{n}.tif", **options) for n, v in enumerate(values)]
    one = write_scene(values.reshape(12, *SHAPE), "all.tif", **options)
    for name, scene in (("files", files), ("one", one)):
        encode(model, scene, tmp_path / f"{name}_codes.tif", dates=DATES, **OPTIONS)
    assert np.array_equal(read(tmp_path / "files_codes.tif"), read(tmp_path / "one_codes.tif"))


def test_errors_are_checked_beside_a_date_without_pixels(run, values, write_scene, tmp_path):
    empty = values.copy()
    empty[1] = 0
    scene = write_scene(empty.reshape(12, *SHAPE), nodata=0, transform=grid())
    with pytest.raises(DataError, match="worse than max_error"):
        encode(run, scene, tmp_path / "codes.tif", dates=DATES, max_error=1, **OPTIONS)


def test_equal_dates_are_warned_of(run, series, tmp_path):
    with pytest.warns(UserWarning, match="have the same date"):
        encode(run, series, tmp_path / "codes.tif", dates=[DATES[0]] * 3, **OPTIONS)


def test_bands_are_found_by_name(run, series, values, write_scene, tmp_path):
    encode(run, series, tmp_path / "codes.tif", **OPTIONS)
    order = [3, 0, 2, 1]
    path = write_scene(values[:, order].reshape(12, *SHAPE), nodata=0, transform=grid())
    with rasterio.open(path, "r+") as file:
        names = [META["bands"][band] for band in order]
        file.descriptions = [f"{date} {band}" for date in DATES for band in names]
    encode(run, path, tmp_path / "other.tif", **OPTIONS)
    assert np.array_equal(read(tmp_path / "other.tif"), read(tmp_path / "codes.tif"))
    with rasterio.open(path, "r+") as file:
        file.descriptions = [f"{date} {band}" for date in DATES for band in ("a", "b", "c", "d")]
    with pytest.raises(DataError, match="other bands than the model's"):
        encode(run, path, tmp_path / "wrong.tif", **OPTIONS)


def test_packed_codes_decode_to_the_same(run, series, tmp_path):
    encode(run, series, tmp_path / "codes.tif", **OPTIONS)
    encode(run, series, tmp_path / "codes.hkc", entropy=True, **OPTIONS)
    for name in ("codes.tif", "codes.hkc"):
        decode(tmp_path / name, tmp_path / f"{name}.tif", model=run, progress=False)
    assert np.array_equal(read(tmp_path / "codes.tif.tif"), read(tmp_path / "codes.hkc.tif"))


def test_command_with_dates(run, values, write_scene, tmp_path, capsys):
    options = dict(nodata=0, transform=grid())
    files = [str(write_scene(v, f"{n}.tif", **options)) for n, v in enumerate(values)]
    out, common = str(tmp_path / "codes.tif"), [*map(str, run), *files]
    with pytest.raises(SystemExit):
        main(["encode", *common, out])
    assert "pass them (--dates" in capsys.readouterr().err
    main(["encode", *common, out, "--dates", ",".join(DATES), "--window", "16"])
    assert "2018-05-13 green: RMSE" in capsys.readouterr().err
    named = ["--model", str(run[0]), "--checkpoint", str(run[1])]
    main(["decode", out, str(tmp_path / "back.tif"), *named])
    with rasterio.open(tmp_path / "back.tif") as file:
        assert file.count == 12 and file.descriptions[5] == "2018-05-13 green"


def without_dates(series):
    with rasterio.open(series, "r+") as file:
        file.descriptions = [None] * 12
    return series


def other_grid(series):
    with rasterio.open(series) as file:
        profile, values = file.profile | dict(count=4), file.read([1, 2, 3, 4])
    names = [series.with_name(f"{name}.tif") for name in ("one_20180101", "two_20180201")]
    for shift, name in enumerate(names):
        profile["transform"] = grid() @ rasterio.Affine.translation(shift / 2, 0)
        with rasterio.open(name, "w", **profile) as file:
            file.write(values)
    return names


def other_scale(series):
    """Pixels that are larger by a hair, which are three apart at the end of a wide scene."""
    names = [series.with_name(f"{name}.tif") for name in ("a_20180101", "b_20180201")]
    for size, name in zip((10, 10.009), names, strict=True):
        profile = dict(driver="GTiff", count=4, height=8, width=4000, dtype="uint8", nodata=0)
        transform = rasterio.transform.from_origin(500000, 4600000, size, size)
        with rasterio.open(
            name, "w", **profile, crs="EPSG:32645", transform=transform, photometric="MINISBLACK"
        ) as file:
            file.write(np.ones((4, 8, 4000), np.uint8))
    return names


def names_elsewhere(series):
    with rasterio.open(series, "r+") as file:
        names = ("nir", "red", "", "swir")
        file.descriptions = [f"{date} {name}".strip() for date in DATES for name in names]
    return series


def bands_first(series):
    with rasterio.open(series, "r+") as file:
        file.descriptions = [date for _ in META["bands"] for date in DATES]
    return series


@pytest.mark.parametrize(
    "change, options, error, words",
    [
        (without_dates, {}, DataError, "no dates"),
        (None, dict(dates=DATES[:2]), DataError, "do not fit the dates"),
        (None, dict(dates=["April", *DATES[1:]]), DataError, "not a date"),
        (None, dict(dates="2018-04-29"), ConfigError, "dates"),
        (None, dict(dates=5), ConfigError, "dates"),
        (None, dict(bounds=(0, 0, np.inf, np.inf)), ConfigError, "bounds"),
        (other_scale, {}, SceneError, "another date of the series"),
        (names_elsewhere, {}, DataError, "other bands than the model's"),
        (bands_first, dict(dates=DATES), DataError, "of several dates"),
        (None, dict(bidx=[1, 2, 3, 4]), ConfigError, "bidx"),
        (other_grid, {}, SceneError, "another date of the series"),
    ],
)
def test_series_that_do_not_fit_are_refused(run, series, tmp_path, change, options, error, words):
    series = series if change is None else change(series)
    with pytest.raises(error, match=words):
        encode(run, series, tmp_path / "codes.tif", **OPTIONS, **options)
    assert not (tmp_path / "codes.tif").exists()


def test_a_series_without_metres_is_refused(run, values, write_scene, tmp_path):
    scene = write_scene(values.reshape(12, *SHAPE), nodata=0, crs=None)
    with pytest.raises(DataError, match="scene.tif: without resolution"):
        encode(run, scene, tmp_path / "codes.tif", dates=DATES, **OPTIONS)


def with_options(run, folder, *lines, meta=META):
    """The same weights in another config."""
    config, path = folder / "other.py", folder / "other.pth"
    config.write_text("\n".join([run[0].read_text(), *lines]))
    state = torch.load(run[1], weights_only=False)
    torch.save(state | dict(meta=dict(dataset_meta=meta)), path)
    return config, path


@pytest.mark.parametrize(
    "line",
    [
        "model['decoder']['ranges'] = [(10, 1461), (16, 1024), (16, 1024), (100, 4000)]",
        "model['encoder']['tokenizer']['ranges'] = [(9, 99), (160, 999), (160, 999), (100, 4000)]",
        "model['encoder']['tokenizer']['groups'][0]['bands'] = [0, 1, 3]",
        "model['encoder']['tokenizer']['num_heads'] = 2",
    ],
)
def test_the_same_weights_with_other_options_are_another_model(run, series, tmp_path, line):
    encode(run, series, tmp_path / "codes.tif", **OPTIONS)
    # The same options in other words.
    words = "model['decoder']['ranges'] = [[10, 1461], [160, 10240], [160, 10240], [100, 4000]]"
    same = with_options(run, tmp_path, words)
    decode(tmp_path / "codes.tif", tmp_path / "back.tif", model=same, progress=False)
    other = with_options(run, tmp_path, line)
    with pytest.raises(ConfigError, match="those of another model"):
        decode(tmp_path / "codes.tif", tmp_path / "other.tif", model=other, progress=False)


def test_a_block_without_any_data_comes_back_as_such(run, values, write_scene, tmp_path):
    empty = values.copy()
    empty[:, :, :16, :16] = 0
    scene = write_scene(empty.reshape(12, *SHAPE), nodata=0, transform=grid())
    encode(run, scene, tmp_path / "codes.tif", dates=DATES, **OPTIONS)
    assert (read(tmp_path / "codes.tif")[:12, :4, :4] == 64).all()
    decode(tmp_path / "codes.tif", tmp_path / "back.tif", model=run, progress=False)
    assert np.array_equal(read(tmp_path / "back.tif") == 0, empty.reshape(12, *SHAPE) == 0)


@pytest.mark.parametrize("waves", [[665, 560], [665, None, 1610, 833], 5])
def test_wavelengths_that_are_not_those_of_the_bands_are_refused(run, series, tmp_path, waves):
    model = with_options(run, tmp_path, meta=META | dict(wavelengths=waves))
    with pytest.raises(DataError, match="wavelengths do not fit its bands"):
        encode(model, series, tmp_path / "codes.tif", **OPTIONS)


def test_latents_that_are_not_finite_have_no_codes(run, series, tmp_path):
    model = load_model(run)
    with torch.no_grad():
        model.encoder.proj.weight[0] = torch.nan
    with pytest.raises(DataError, match="not finite and have no codes"):
        encode(model, series, tmp_path / "codes.tif", errors=False, **OPTIONS)
    assert not (tmp_path / "codes.tif").exists()


def test_a_part_of_the_codes_of_a_patch_is_refused(run, series, tmp_path):
    encode(run, series, tmp_path / "codes.tif", **OPTIONS)
    with rasterio.open(tmp_path / "codes.tif") as file:
        profile, codes, tags = file.profile, file.read(), file.tags()
    depth, group = codes.copy(), codes.copy()
    depth[0, 3, 3] = group[2:4, 4, 4] = 64
    for changed in (codes, depth, group):
        options = {key: profile[key] for key in ("width", "height", "count", "dtype", "crs")}
        with rasterio.open(
            tmp_path / "changed.tif", "w", "GTiff", transform=profile["transform"], **options
        ) as file:
            file.write(changed)
            file.update_tags(**tags)
        parts = tmp_path / "changed.tif", tmp_path / "back.tif"
        if changed is codes:
            decode(*parts, model=run, progress=False)
            continue
        with pytest.raises(DataError, match="codes of a patch are missing"):
            decode(*parts, model=run, progress=False, overwrite=True)


def test_attributes_of_a_decoded_array_are_those_of_its_bands(run, series):
    with rasterio.open(series, "r+") as file:
        file.scales = [1, 1, 2, 1] * 3
    found = decode(encode(run, series, **OPTIONS), model=run, progress=False)
    assert found.attrs["scales"] == (1, 1, 2, 1)
    for one in (found, found[0]):  # a series, and an image, again
        assert encode(run, one, **OPTIONS).sizes["band"] > 4


def test_an_array_of_one_band_keeps_its_name(write_scene, values):
    from hook.geo.arrays import read_image

    path = write_scene(values[0, :1], nodata=0, transform=grid())
    with rasterio.open(path, "r+") as file:
        file.descriptions = ["2018-04-29 red"]
    assert read_image(path, ["2018-04-29"]).attrs["long_name"] == ["red"]


def test_dates_are_of_series_only(codec_run, series, tmp_path):
    with pytest.raises(ConfigError, match="dates"):
        encode(codec_run, series, tmp_path / "codes.tif", dates=DATES, progress=False)


@pytest.mark.parametrize(
    "tags",
    [
        dict(HOOK_DATES="[null, null, null]"),
        dict(HOOK_DATES='["April"]'),
        dict(HOOK_WINDOW="3"),
        dict(HOOK_FACTORS="[]"),
        dict(HOOK_FACTORS="[1, 1]"),
        dict(HOOK_RESOLUTION="0"),
    ],
)
def test_damaged_codes_are_refused(run, series, tmp_path, tags):
    encode(run, series, tmp_path / "codes.tif", **OPTIONS)
    with rasterio.open(tmp_path / "codes.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(**tags)
    with pytest.raises(HookError, match="not a file of codes|contradict the model"):
        decode(tmp_path / "codes.tif", tmp_path / "back.tif", model=run, progress=False)
