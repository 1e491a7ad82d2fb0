"""Accuracy against torch and against counts by hand; bad labels; the CSV."""

import csv

import numpy as np
import pytest
import torch

from hook.errors import ConfigError, DataError
from hook.evaluation.accuracy import Accuracy, write_predictions
from hook.evaluation.confusion import load_confusion_matrix

CLASSES = ("field", "forest", "town", "water")


def _samples(scores, truth):
    return [
        {"pred_score": torch.as_tensor(score), "gt_label": int(label), "img_path": f"{i}.tif"}
        for i, (score, label) in enumerate(zip(scores, truth, strict=True))
    ]


def _evaluate(metric, samples, batch=3):
    metric.dataset_meta = {"classes": CLASSES}
    for start in range(0, len(samples), batch):
        metric.process({}, samples[start : start + batch])
    return metric.evaluate(len(samples))


def test_against_torch_topk():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(50, 4, generator=generator).softmax(1)
    truth = torch.randint(4, (50,), generator=generator)
    metrics = _evaluate(Accuracy(topk=(1, 2, 4)), _samples(scores, truth))
    for k in (1, 2, 4):
        hits = (scores.topk(k, dim=1).indices == truth[:, None]).any(dim=1)
        expected = hits.double().mean().item() * 100
        assert metrics[f"accuracy/top{k}"] == pytest.approx(expected, abs=1e-4)
    recalls = [
        (scores.argmax(1)[truth == c] == c).double().mean().item() for c in range(len(CLASSES))
    ]
    assert metrics["accuracy/mean_class"] == pytest.approx(np.mean(recalls) * 100, abs=1e-4)


def test_absent_classes_are_left_out_of_the_mean():
    scores = np.eye(4)[[0, 0, 1, 3]]
    metrics = _evaluate(Accuracy(), _samples(scores, [0, 0, 1, 1]))
    assert metrics["accuracy/top1"] == 75.0
    assert metrics["accuracy/mean_class"] == 75.0  # (100 + 50) / 2


def test_files(tmp_path):
    metric = Accuracy(output_dir=str(tmp_path))
    _evaluate(metric, _samples(np.eye(4)[[0, 2, 1]], [0, 2, 3]))
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "class", "truth", *(f"score_{name}" for name in CLASSES)]
    assert [row[:3] for row in rows[1:]] == [
        ["0.tif", "field", "field"],
        ["1.tif", "town", "town"],
        ["2.tif", "forest", "water"],
    ]
    classes, matrix = load_confusion_matrix(tmp_path)
    assert tuple(classes) == CLASSES
    assert matrix[3, 1] == 1
    assert matrix.sum() == 3


def test_without_labels_predictions_are_written_and_nothing_is_computed(tmp_path):
    metric = Accuracy(output_dir=str(tmp_path))
    samples = [{"pred_score": torch.tensor([0.1, 0.2, 0.3, 0.4]), "img_path": "a,b.tif"}]
    assert _evaluate(metric, samples) == {}
    with (tmp_path / "predictions.csv").open() as file:
        assert list(csv.reader(file))[1][:2] == ["a,b.tif", "water"]


def test_an_image_without_a_valid_pixel_is_not_counted(tmp_path):
    scores = torch.eye(4)[[0, 1, 2]]
    samples = _samples(scores, [0, 1, 3])
    blank = dict(pred_score=torch.full((4,), torch.nan), gt_label=0, img_path="b.tif", blank=True)
    metrics = _evaluate(Accuracy(output_dir=str(tmp_path)), [*samples, blank])
    assert metrics["accuracy/top1"] == pytest.approx(200 / 3, abs=1e-3)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["field", "forest", "town", ""]


def test_bad_input():
    with pytest.raises(ConfigError, match="topk"):
        Accuracy(topk=(0,))
    with pytest.raises(DataError, match="0.tif: label outside the range"):
        _evaluate(Accuracy(), _samples(np.eye(4)[[0]], [4]))
    with pytest.raises(ConfigError, match="5 scores"):
        _evaluate(Accuracy(), _samples(np.eye(5)[[0]], [0]))
    metric = Accuracy()
    metric.dataset_meta = {}
    with pytest.raises(ConfigError, match="has no class names"):
        metric.process({}, _samples(np.eye(4)[[0]], [0]))


def test_csv_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(TypeError):
        write_predictions(
            tmp_path / "p.csv", CLASSES, [("a", None, np.eye(4)[0]), ("b", None, None)]
        )
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_no_prediction(value, tmp_path):
    scores = torch.tensor([[0.7, 0.3, 0, 0], [value] * 4])
    with pytest.raises(DataError, match=r"1\.tif: the model predicts no class"):
        _evaluate(Accuracy(), _samples(scores, [0, 0]))
    rows = [(f"{i}.tif", None, score.numpy()) for i, score in enumerate(scores)]
    write_predictions(tmp_path / "p.csv", CLASSES, rows)
    with (tmp_path / "p.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["field", ""]


def test_a_file_of_others_is_replaced_only_where_that_is_asked_for(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("mine")
    rows = [("a.tif", None, np.eye(4)[0])]
    with pytest.warns(UserWarning, match="kept, because HOOK did not write it"):
        write_predictions(path, CLASSES, rows)
    assert path.read_text() == "mine"
    write_predictions(path, CLASSES, rows, overwrite=True)
    assert path.read_text().startswith("file,class,")
