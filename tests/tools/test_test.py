"""tools/test.py: predictions as files, test-time augmentation, checkpoints that do not fit."""

import csv
import json

import numpy as np
import rasterio
import torch


def test_classification_predictions_as_csv(tested, tools):
    out = tested
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"tiny_{i}.png" for i in range(7)]
    scores = np.array([[float(row[f"score_{c}"]) for c in tools.tiny.CLASSES] for row in rows])
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    predicted = scores.argmax(axis=1)
    assert [tools.tiny.CLASSES[i] for i in predicted] == [row["class"] for row in rows]
    truth = np.arange(7) % 3
    assert [tools.tiny.CLASSES[i] for i in truth] == [row["truth"] for row in rows]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["accuracy/top1"] == round(float((predicted == truth).mean() * 100), 4)
    confusion = json.loads((out / "confusion_matrix.json").read_text())
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (truth, predicted), 1)
    assert confusion["matrix"] == expected.tolist()


def test_segmentation_out_is_georeferenced_and_complete(seg_run, scenes, tools, tmp_path):
    config, checkpoint = seg_run
    out, show = tmp_path / "out", tmp_path / "show"
    done = tools.run(
        "tools/test.py",
        config,
        checkpoint,
        "--work-dir",
        tmp_path / "run",
        "--out",
        out,
        "--show-dir",
        show,
    )
    # 3 x 2, 2 x 3 and 1 chips of 32 pixels.
    assert len(list(show.glob("*.png"))) == 13
    assert not (out / ".parts").exists()
    confusion = np.zeros((3, 3), int)
    for name, size in tools.tiny.SCENES.items():
        with (
            rasterio.open(scenes / "images" / f"{name}.tif") as image,
            rasterio.open(scenes / "masks" / f"{name}.tif") as mask,
            rasterio.open(out / f"{name}.tif") as result,
        ):
            assert result.shape == size
            assert result.crs == image.crs
            assert result.transform == image.transform
            assert result.nodata == 255
            colours = result.colormap(1)
            assert [colours[i][:3] for i in range(3)] == [(0, 0, 255), (0, 200, 0), (200, 0, 0)]
            predicted, truth = result.read(1), mask.read(1)
            valid = image.dataset_mask() > 0
        # Nodata exactly where the image has nodata, classes elsewhere.
        assert np.array_equal(predicted == 255, ~valid)
        assert predicted[valid].max() < 3
        np.add.at(confusion, (truth[valid], predicted[valid]), 1)
    # The scores of the log equal those of the files: every valid pixel counts once.
    metrics = json.loads((out / "metrics.json").read_text())
    iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    assert np.isclose(metrics["mIoU"], np.nanmean(iou) * 100, atol=1e-3)
    assert np.isclose(metrics["aAcc"], np.trace(confusion) / confusion.sum() * 100, atol=1e-3)
    assert json.loads((out / "confusion_matrix.json").read_text())["matrix"] == confusion.tolist()
    # Both metrics of the list are reported, per class in the log.
    assert 0 <= metrics["mBF1"] <= 100
    assert "within 2 px" in done.stdout + done.stderr


def test_a_checkpoint_of_another_shape_is_refused(seg_run, tools, tmp_path):
    config, checkpoint = seg_run
    content = torch.load(checkpoint, weights_only=True)
    key = "decode_head.conv_seg.weight"
    content["state_dict"][key] = torch.zeros(5, 8, 1, 1)
    torch.save(content, tmp_path / "other.pth")
    done = tools.run(
        "tools/test.py", config, tmp_path / "other.pth", "--work-dir", tmp_path, check=False
    )
    assert done.returncode == 1
    assert f"{key}: (5, 8, 1, 1) in the checkpoint, (3, 8, 1, 1) in the model" in done.stderr
    assert "Traceback" not in done.stderr


def test_classes_that_are_not_the_models_are_refused(seg_run, tools, tmp_path):
    config, checkpoint = seg_run
    done = tools.run(
        "tools/test.py",
        config,
        checkpoint,
        "--work-dir",
        tmp_path / "run",
        "--cfg-options",
        "test_dataloader.dataset.metainfo.classes=town,field,water",
        check=False,
    )
    assert done.returncode == 1
    assert "a different order" in done.stderr and "town, field, water" in done.stderr
    assert "Traceback" not in done.stderr
