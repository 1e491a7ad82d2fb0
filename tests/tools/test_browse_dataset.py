"""Contact sheets show the output of the pipeline."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hook.errors import ConfigError
from hook.geo.styles import distinct_palette

CONFIG = """
_base_ = ["{repo}/configs/_base_/datasets/{base}.py"]
default_scope = "{scope}"
model = dict(type="BaseModel")
"""


@pytest.fixture
def browse(repo):
    """The script as a module."""
    path = repo / "tools/analysis_tools/browse_dataset.py"
    spec = importlib.util.spec_from_file_location("browse_dataset", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["browse_dataset"] = module  # needed by its dataclasses
    spec.loader.exec_module(module)
    yield module
    del sys.modules["browse_dataset"]


@pytest.fixture
def gid5(tmp_path, repo):
    """Five GID-5 tiles and their config."""
    rng = np.random.default_rng(0)
    for folder in ("train", "train_labels"):
        (tmp_path / "gid5" / folder).mkdir(parents=True)
    for number in range(5):
        image = np.kron(rng.integers(30, 220, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        mask = np.kron(rng.integers(0, 6, (4, 4)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"gid5/train/{number}.png")
        Image.fromarray(mask).save(tmp_path / f"gid5/train_labels/{number}.png")
    path = tmp_path / "seg.py"
    path.write_text(CONFIG.format(repo=repo, base="gid5_512", scope="mmseg"))
    return path, {"train_dataloader.dataset.data_root": str(tmp_path / "gid5")}


def test_segmentation_sheet(browse, gid5, tmp_path, capsys):
    path, options = gid5
    (key, value), out = next(iter(options.items())), tmp_path / "sheets"
    browse.main([str(path), "--num", "5", "--out-dir", str(out), "--cfg-options", f"{key}={value}"])
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "train_001.png")
    assert [path.name for path in out.iterdir()] == ["train_001.png"]
    sheet = np.asarray(Image.open(out / "train_001.png"))
    assert sheet.shape[2] == 3 and min(sheet.shape[:2]) > 300
    # The legend shows the pure colours of the classes.
    for colour in ((255, 0, 0), (0, 255, 0), (0, 255, 255), (255, 255, 0), (0, 0, 255)):
        assert (sheet == colour).all(axis=2).sum() > 50


def test_classification_sheets(browse, repo, tmp_path, monkeypatch):
    monkeypatch.setattr(browse, "COLUMNS", 2)
    monkeypatch.setattr(browse, "ROWS", 2)
    rng = np.random.default_rng(0)
    names = []
    for name in importlib.import_module("hook.datasets.named").EuroSATRGB.class_names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "data" / name / f"{name}_{number}.jpg")
            names.append(f"{name}/{name}_{number}.jpg")
    (tmp_path / "data/splits").mkdir()
    (tmp_path / "data/splits/val.txt").write_text("\n".join(names))
    path = tmp_path / "cls.py"
    path.write_text(CONFIG.format(repo=repo, base="eurosat_2k", scope="hook"))
    options = {"val_dataloader.dataset.data_root": str(tmp_path / "data")}
    arguments = dict(split="val", num=5, out_dir=tmp_path, options=options)
    sheets = browse.browse(path, **arguments)
    assert [sheet.name for sheet in sheets] == ["val_001.png", "val_002.png"]
    first = sheets[0].read_bytes()
    browse.browse(path, **arguments)
    assert sheets[0].read_bytes() == first
    browse.browse(path, bands=["blue", "2", "red"], **arguments)
    assert sheets[0].read_bytes() != first


def test_samples_are_those_of_the_pipeline(browse, gid5):
    from mmengine.config import Config

    from hook.registry import DATASETS

    path, options = gid5
    cfg = Config.fromfile(str(path))
    cfg.merge_from_dict({**options, "train_dataloader.dataset.pipeline": cfg.test_pipeline})
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = browse.collect(dataset, 3, seed=0)
    assert [sample.title for sample in samples] == ["0.png", "2.png", "4.png"]
    for sample, index in zip(samples, (0, 2, 4), strict=True):
        loaded = dataset.load_sample(index)
        np.testing.assert_array_equal(sample.image, loaded["img"].transpose(2, 0, 1))
        np.testing.assert_array_equal(sample.mask, loaded["gt_seg_map"])


def test_stretch_is_shared_and_leaves_out_nodata(browse):
    rng = np.random.default_rng(0)
    dark, bright = rng.uniform(0, 1, (2, 4, 20, 20)) + np.array([0, 9])[:, None, None, None]
    valid = np.ones((20, 20), bool)
    holes = valid.copy()
    holes[:5] = False
    bright[:, :5] = 1e9
    first, second = browse.stretch([dark, bright], [valid, holes], (3, 1, 0))
    assert first.dtype == np.uint8 and first.shape == (20, 20, 3)
    assert first.max() < 40 and second[5:].min() > 215
    assert (second[:5] == 255).all()
    low, high = np.percentile(np.concatenate([dark[3].ravel(), bright[3, 5:].ravel()]), (2, 98))
    expected = np.clip((dark[3] - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(first[..., 0], expected, atol=1.01)


def test_overlay(browse):
    picture = np.full((64, 64, 3), 100, np.uint8)
    mask = np.zeros((64, 64), int)
    mask[:, 32:] = 255
    mixed = browse.overlay(picture, mask, [(200, 0, 0), (0, 200, 0)])
    np.testing.assert_array_equal(mixed[:, :32], np.broadcast_to([155, 45, 45], (64, 32, 3)))
    stripes = mixed[:, 32:, 0]
    assert set(np.unique(stripes)) == {50, 255}
    assert 0.4 < (stripes == 255).mean() < 0.6


def test_classes_without_colours_get_some(browse):
    mask = np.arange(64).reshape(8, 8) % 2
    sample = browse.Sample("x", np.zeros((3, 8, 8)), np.ones((8, 8), bool), mask)
    sheet = browse.draw_sheet([sample], {"classes": ("a", "b")}, (0, 1, 2), "heading")
    for colour in distinct_palette(2):
        assert (sheet == colour).all(axis=2).sum() > 50  # the legend


@pytest.mark.parametrize(
    ("wanted", "names", "expected"),
    [
        (None, ("blue", "green", "red", "nir"), (2, 1, 0)),
        (["4", "3", "2"], None, (3, 2, 1)),
        (["NIR", "red", "green"], ("blue", "green", "red", "nir"), (3, 2, 1)),
        (["2"], None, (1, 1, 1)),
    ],
)
def test_choose_bands(browse, wanted, names, expected):
    assert browse.choose_bands(wanted, names, 4) == expected


@pytest.mark.parametrize("wanted", [["5"], ["0"], ["swir"], ["1", "2"]])
def test_unknown_bands(browse, wanted):
    with pytest.raises(ConfigError, match="--bands"):
        browse.choose_bands(wanted, ("b", "g", "r", "nir"), 4)


def test_bad_calls(browse, gid5, tmp_path, repo):
    path, options = gid5
    with pytest.raises(ConfigError, match="--num"):
        browse.browse(path, num=0, options=options)
    with pytest.raises(ConfigError, match="has no test data"):
        browse.browse(path, "test", options={**options, "test_dataloader": None})
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out-dir .*file is a file"):
        browse.browse(path, num=1, out_dir=tmp_path / "file", options=options)
    with pytest.raises(SystemExit) as caught:
        browse.main([str(path), "--cfg-options", "no_value"])
    assert caught.value.code == 2
    done = subprocess.run(
        [
            sys.executable,
            str(repo / "tools/analysis_tools/browse_dataset.py"),
            str(path),
            f"--out-dir={tmp_path / 'out'}",
            f"--cfg-options=train_dataloader.dataset.data_root={tmp_path / 'none'}",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "prepare_gid5.py" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
