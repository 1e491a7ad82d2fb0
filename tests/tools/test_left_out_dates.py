"""left_out_dates: rows of methods and models, resumed, on a tiny series."""

import json
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rasterio.transform import from_origin

from hook.engine.models import build_model
from hook.errors import ConfigError, DataError

CONFIG = """
_base_ = [r"REPO/configs/_base_/default_runtime.py"]
sizes = dict(embed_dims=16, depth=1, num_heads=2, patch_size=4)
data_preprocessor = dict(type="hook.CodecDataPreProcessor", mean=[500.0] * 3, std=[300.0] * 3)
model = dict(
    type="hook.SeriesAutoencoder",
    data_preprocessor=data_preprocessor,
    encoder=dict(
        type="hook.SpaceTimeEncoder",
        tokenizer=dict(
            type="hook.SpaceTimeTokenizer",
            in_channels=3,
            groups=[dict(bands=[0, 1]), dict(bands=[2], factor=2)],
            **sizes,
        ),
        out_channels=8,
    ),
    quantizer=dict(type="GaussianQuantizer", embed_dims=4, reduction="mean"),
    decoder=dict(
        type="hook.SpaceTimeDecoder", in_channels=4, out_channels=3, groups=[2, 1], fills=True,
        **sizes,
    ),
    hide=0.3,
)
dataset = dict(
    type="hook.GeoTIFFSeries",
    images=r"IMAGE",
    metainfo=dict(
        bands=("red", "nir", "swir"),
        wavelengths=[665, 833, 1610],
        dates=["2020-01-01", "2020-02-01", "2020-03-12", "2020-05-01"],
        mean=[500.0] * 3,
        std=[300.0] * 3,
        nodata=0,
    ),
    chip_size=16,
    align=2,
    pipeline=[dict(type="hook.PackSegSample")],
)
north = dict(bounds=(5e5, 5199680, 500320, 5.2e6), crs="EPSG:32632")
south = dict(bounds=(5e5, 5199500, 500320, 5199660), crs="EPSG:32632")
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="hook.RandomGeoSampler"),
    dataset=dict(**dataset, split=north, length=4),
)
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**dataset, split=south, test_mode=True),
)
val_dataloader = test_dataloader
val_evaluator = test_evaluator = [dict(type="hook.ReconstructionMetric", data_range=1000)]
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-3))
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
custom_hooks = [
    dict(type="hook.DatasetCheckHook"),
    dict(type="hook.TokenVisualizationHook", interval=1, max_images=1),
]
"""


@pytest.fixture
def config(tmp_path, repo, rng, write_raster):
    """Config of a series that grows linearly in time, with a cloud at the second date."""
    days = np.array([0, 31, 71, 121])
    first = rng.integers(300, 500, (3, 50, 32))
    first[2] = first[2, ::2, ::2].repeat(2, 0).repeat(2, 1)
    values = first + days[:, None, None, None]
    values[1, :, 36:40] = 0
    image = tmp_path / "series.tif"
    write_raster(image, values.reshape(12, 50, 32).astype("uint16"),
                 transform=from_origin(5e5, 5.2e6, 10, 10), crs="EPSG:32632")  # fmt: skip
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG.replace("IMAGE", str(image)).replace("REPO", str(repo)))
    return path


@pytest.fixture
def run(load_tool, monkeypatch):
    tool = load_tool("analysis_tools/left_out_dates.py")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["left_out_dates.py", *map(str, arguments)])
        tool.main.__wrapped__()

    return run


@pytest.fixture
def checkpoint(config, tmp_path):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("hook"):
        model = build_model(Config.fromfile(config))
    path = tmp_path / "run/seed0.pth"
    path.parent.mkdir()
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def test_rows_of_all_methods_and_a_second_run(config, checkpoint, run, tmp_path, capsys):
    out = tmp_path / "dates.json"
    run(config, "--json", out)
    rows = json.loads(out.read_text())["rows"]
    # Linear growth is met between dates, but not before the first one, where a quarter of the
    # pixels have the third one only, nor after the last.
    linear = [one["rmse"] for one in rows["linear interpolation"]["dates"]]
    first = np.sqrt((3 * 31**2 + 71**2) / 4)
    np.testing.assert_allclose(linear, [first, 0, 0, 50], atol=1e-3)
    nearest = [one["rmse"] for one in rows["nearest date"]["dates"]]
    np.testing.assert_allclose(nearest[1::2], [31, 50], atol=1e-3)
    # The date is a constant more than the others wherever these are known.
    regression = [one["rmse"] for one in rows["linear regression"]["dates"]]
    assert regression[1] < 1 < min(regression[::2])
    pixels = [one["pixels"] for one in rows["harmonic fit"]["dates"]]
    assert pixels == [16 * 32, 16 * 32 - 4 * 32, 16 * 32, 16 * 32]
    before = capsys.readouterr().out
    line = next(line for line in before.splitlines() if "linear interpolation" in line)
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[1:3] == ["0.0", "0.0"] and cells[4] == "0.0" and float(cells[5]) > 20
    rows["nearest date"]["dates"][0]["rmse"] = 12345.0  # is kept, not measured again
    report = json.loads(out.read_text()) | {"rows": rows}
    out.write_text(json.dumps(report))
    run(config, checkpoint, "--json", out)
    text = capsys.readouterr().out
    assert "12345.0" in text and "12345.0" not in before and "2020-03-12" in text
    rows = json.loads(out.read_text())["rows"]
    name = str(checkpoint)
    found = [rows[f"{name}, {way}"]["dates"] for way in ("left out", "whole series")]
    assert len(rows) == 7 and all(one["rmse"] > 0 for part in found for one in part)
    assert found[0] != found[1]
    state = torch.load(checkpoint)
    state["state_dict"] = {key: 1.1 * value for key, value in state["state_dict"].items()}
    torch.save(state, checkpoint)  # another training
    run(config, checkpoint, "--json", out)
    assert json.loads(out.read_text())["rows"][f"{name}, left out"]["dates"] != found[0]


def test_a_regression_of_other_pixels_is_measured_again(config, run, tmp_path):
    out = tmp_path / "dates.json"
    found = []
    for bounds in ("(5e5,5199680,500320,5.2e6)", "(5e5,5199840,500320,5.2e6)"):
        option = f"train_dataloader.dataset.split.bounds={bounds}"
        run(config, "--json", out, "--cfg-options", option)
        found.append(json.loads(out.read_text())["rows"])
    assert found[0]["linear interpolation"] == found[1]["linear interpolation"]
    assert found[0]["linear regression"] != found[1]["linear regression"]


def test_dates_of_one_day_and_missing_ones_have_columns(load_tool):
    tool = load_tool("analysis_tools/left_out_dates.py")
    rows = {"nearest date": {"dates": [dict(rmse=float(k)) for k in range(4)] + [None]}}
    dates = ["2020-01-01", "2020-03-01", "missing", "2020-03-01", "missing"]
    text = tool.draw_table(rows, dates)
    assert "| 2020-03-01 | missing | 2020-03-01 (2) | missing (2) |" in text
    assert "nearest date" in tool.draw_table(rows, ["missing"] * 5)


def test_other_data_and_other_models_are_refused(config, run, tmp_path):
    out = tmp_path / "dates.json"
    out.write_text('{"settings": {}, "rows": {}}')
    with pytest.raises(DataError, match="of other data"):
        run(config, "--json", out)
    out.write_text("[]")
    with pytest.raises(DataError, match="no report"):
        run(config, "--json", out)
    out.unlink()
    with pytest.raises(ConfigError, match="gives no dates"):
        run(config, "any.pth", "--json", out, "--cfg-options", "model.decoder.fills=False",
            "model.hide=0")  # fmt: skip


def test_the_model_trains_and_is_tested_by_the_tools(config, tools, tmp_path):
    tools.run("tools/train.py", config, "--work-dir", tmp_path / "run")
    lines = (file.read_text() for file in (tmp_path / "run").glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for text in lines for line in text.splitlines()]
    assert any("loss_pixel" in row for row in rows)
    assert [row["PSNR"] for row in rows if "PSNR" in row][-1] > 0
    options = ("--work-dir", tmp_path / "test", "--show-dir", tmp_path / "test/pictures")
    tools.run("tools/test.py", config, tmp_path / "run/epoch_2.pth", *options)
    assert list((tmp_path / "test/pictures").glob("*.png"))
