import json

import geopandas
import numpy as np
import onnxruntime
import pytest
import rasterio

from hook.cli import main
from hook.zoo.listing import checksum

NAME = "tiny-seg"


@pytest.fixture
def named(seg_model, listing):
    """A list with the tiny segmentation under its name."""
    folder = listing(
        dict(
            name=NAME,
            task="segmentation",
            sha256=checksum(seg_model),
            size=seg_model.stat().st_size,
            file=seg_model.name,
            classes=["water", "field", "town"],
            bands=["red", "nir"],
            resolution=2.0,
            metrics={"mIoU": 12.5},
            measured_on="three scenes",
            licence="CC0",
            data="random numbers",
        ),
        dict(name="far", task="segmentation", sha256="0", size=1, url="http://127.0.0.1:9/far"),
    )
    (folder / seg_model.name).write_bytes(seg_model.read_bytes())
    return folder


def test_the_list_is_read_by_people_and_by_programs(named, capsys):
    main(["models", "list"])
    text = capsys.readouterr().out
    assert text.splitlines()[0] == NAME
    for part in ("red, nir; 2 m pixels", "water, field, town", "mIoU 12.5 (three scenes)", "CC0"):
        assert part in text
    assert "comes with HOOK" in text and "to be downloaded" in text
    main(["models", "list", "--json"])
    models = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in models] == [NAME, "far"]
    assert models[0]["path"].endswith(f"{NAME}.safetensors")


def test_download_says_where_the_file_is(named, seg_model, tmp_path, capsys):
    main(["models", "download", NAME, "--quiet"])
    assert capsys.readouterr().out.strip() == str(named / seg_model.name)
    main(["models", "download", NAME, "--to", str(tmp_path / "out")])
    assert checksum(capsys.readouterr().out.strip()) == checksum(seg_model)
    with pytest.raises(SystemExit) as ended:
        main(["models", "download", "far", "--quiet"])
    message = capsys.readouterr().err
    assert ended.value.code == 1 and "cannot be downloaded" in message and "remedy" in message


def test_every_command_takes_a_name(named, scenes, seg_run, tmp_path, capsys):
    scene, usual = str(scenes / "images" / "first.tif"), [*map(str, seg_run)]
    by_name = ["--model", NAME]
    for model, folder in ((usual, tmp_path / "usual"), (by_name, tmp_path / "named")):
        folder.mkdir()
        main(["map", *model, scene, str(folder / "map.tif"), "--window", "32", "-q"])
        main(["regions", *model, scene, str(folder / "r.parquet"), "--window", "32", "-q"])
        main(["predict", *model, scene, "--out", str(folder / "mask.tif"), "-q"])
        chip = [*by_name, "--chip", scene] if model is by_name else ["--chip", scene, *usual]
        if model is by_name:
            main(["tokens", *model, scene, str(folder / "tokens.png"), "-q"])
        main(["similar", str(folder / "r.parquet"), str(folder / "s.gpkg"), *chip, "-q"])
        main(["export", *model, str(folder / "m.onnx"), "--window", "32", "-q"])
    sessions = [
        onnxruntime.InferenceSession(tmp_path / f / "m.onnx", providers=["CPUExecutionProvider"])
        for f in ("usual", "named")
    ]
    batch = np.random.default_rng(0).random((1, 2, 32, 32), np.float32)
    scores = [session.run(None, {session.get_inputs()[0].name: batch})[0] for session in sessions]
    assert scores[0].shape == (1, 3, 32, 32)
    np.testing.assert_allclose(scores[1], scores[0], atol=0.02)  # half precision
    for name in ("map.tif", "mask.tif"):
        with rasterio.open(tmp_path / "usual" / name) as one, rasterio.open(
            tmp_path / "named" / name
        ) as two:  # fmt: skip
            assert (one.read(1) == two.read(1)).mean() > 0.97  # half precision
    tables = [geopandas.read_parquet(tmp_path / f / "r.parquet") for f in ("usual", "named")]
    assert np.allclose(*(table.area.sum() for table in tables))


def test_a_file_takes_the_place_of_a_name(seg_model, scenes, tmp_path):
    scene = str(scenes / "images" / "third.tif")
    main(["map", scene, str(tmp_path / "m.tif"), f"--model={seg_model}", "--window", "32", "-q"])
    assert (tmp_path / "m.tif").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["map", "--model", "nobody", "a.tif", "b.tif"], 1, "there is no model 'nobody'"),
        (["map", "a.tif", "b.tif"], 2, "required: INPUT, OUTPUT"),
        (["map", "--model", NAME, "b.tif"], 2, "OUTPUT"),
        (["similar", "r", "o", "--chip", "a.tif"], 2, "expected 3 arguments"),
        (["similar", "r", "o", "--id", "1", "--model", NAME], 2, "--model is for --chip only"),
        (["models"], 2, "ACTION"),
        (["models", "download", "nobody"], 1, "there is no model 'nobody'"),
    ],
)
def test_bad_options(arguments, status, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
