"""tokenizer_benchmark: autoencoders and image codecs at equal bytes."""

import csv
import sys

import pytest

RATE = 2.0


@pytest.fixture
def rows(load_tool, tiny, tmp_path, monkeypatch):
    """Return a function that runs the command and reads its table by data and codec."""
    tool = load_tool("analysis_tools/tokenizer_benchmark.py")

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
    models = []
    for config in (plain, deep):
        models += [config, tiny.write_checkpoint(config, config.with_suffix(".pth"))]
    scene = scenes / "images" / "first.tif"
    found = rows(*models, "--scene", scene, "--classical", "jpeg,jpeg2000,jpeg2000pca")
    tiles = found["test images", "plain"]
    assert float(tiles["positions"]) > 0 and float(tiles["PSNR low"]) < float(tiles["PSNR high"])
    assert float(found["test images", "deep"]["use.depth2"]) > 0
    assert ("test images", "JPEG") not in found  # takes three bands of 8 bits
    peer = found["first", "JPEG 2000"]
    for name in ("plain", "deep"):
        assert int(found["first", name]["bytes"]) > 0
    assert 0 < int(peer["bytes"]) <= int(found["first", "deep"]["bytes"])
    assert {"worst_first.png", "rates_first.png", "table.md"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }


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
        20,
        "--classical",
        "jpeg,jpeg2000",
    )
    found = rows(*few, "--rates", RATE, "--vtbench")
    original, jpeg = (found["test images", name] for name in ("original", "JPEG"))
    assert float(original["accuracy"]) >= 80
    latents = found["test images", "random"]
    assert float(latents["probe"]) >= 20 and latents["bits per pixel"] == ""
    assert RATE * 0.9 < float(jpeg["bits per pixel"]) <= RATE
    assert 25 < float(jpeg["PSNR"]) < 50 and float(jpeg["VTBench psnr"]) > 25
    change = float(jpeg["accuracy"]) - float(original["accuracy"])
    assert float(jpeg["change"]) == pytest.approx(change)
