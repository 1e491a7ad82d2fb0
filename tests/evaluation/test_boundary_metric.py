"""The boundary metric as MMEngine runs it: sums over images, means, beside IoU, without masks."""

import logging

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope

from hook.errors import ConfigError, DataError
from hook.evaluation.boundary import boundary_counts, boundary_scores
from hook.evaluation.boundary_metric import BoundaryMetric

CLASSES = ("field", "forest", "town")


def _sample(prediction, truth=None):
    sample = {"pred_sem_seg": {"data": torch.as_tensor(prediction)[None]}, "img_path": "a.tif"}
    if truth is not None:
        sample["gt_sem_seg"] = {"data": torch.as_tensor(truth)[None]}
    return sample


def _evaluate(metric, samples):
    metric.dataset_meta = {"classes": CLASSES}
    for sample in samples:
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


def _maps(count, classes=3):
    rng = np.random.default_rng(0)
    for size in [(30, 20), (16, 40), (9, 9)][:count]:
        truth = rng.integers(0, classes, size).repeat(2, 0).repeat(3, 1)
        prediction = np.roll(truth, 1, 1)
        truth[rng.random(truth.shape) < 0.1] = 255
        yield truth, prediction


def test_counts_of_all_images_are_added():
    maps = list(_maps(3))
    metric = BoundaryMetric(tolerance=1)
    metrics = _evaluate(metric, [_sample(prediction, truth) for truth, prediction in maps])
    counts = sum(boundary_counts(truth, prediction, 3, 1) for truth, prediction in maps)
    scores = boundary_scores(counts)
    assert metrics["mBF1"] == pytest.approx(100 * scores["f1"].mean(), abs=1e-4)
    assert metrics["mBPrecision"] == pytest.approx(100 * scores["precision"].mean(), abs=1e-4)
    assert metrics["mBRecall"] == pytest.approx(100 * scores["recall"].mean(), abs=1e-4)
    for label, value in zip(CLASSES, scores["f1"], strict=True):
        assert metrics[f"BF1.{label}"] == pytest.approx(100 * value, abs=1e-4)
    assert 0 < metrics["mBF1"] < 100


def test_by_hand_with_an_absent_class():
    truth = np.zeros((12, 12), int)
    truth[:, 6:] = 1
    moved = np.zeros((12, 12), int)
    moved[:, 8:] = 1
    near = _evaluate(BoundaryMetric(tolerance=2), [_sample(moved, truth)])
    assert near["mBF1"] == near["BF1.field"] == near["BF1.forest"] == 100.0
    assert "BF1.town" not in near
    assert next(iter(near)) == "mBF1"
    far = _evaluate(BoundaryMetric(tolerance=1), [_sample(moved, truth)])
    assert far["mBF1"] == far["mBRecall"] == 0.0
    # Beside a second image that is right: half of the boundary pixels match.
    both = [_sample(moved, truth), _sample(truth, truth)]
    assert _evaluate(BoundaryMetric(tolerance=1), both)["mBF1"] == 50.0


def test_means_with_a_class_that_has_a_boundary_in_one_of_both():
    truth = np.zeros((12, 12), int)
    truth[:, 6:] = 1
    prediction = truth.copy()
    prediction[8:, :] = 2  # only predicted
    metrics = _evaluate(BoundaryMetric(tolerance=0), [_sample(prediction, truth)])
    scores = boundary_scores(boundary_counts(truth, prediction, 3, 0))
    assert metrics["BF1.town"] == 0
    for name, key in (("mBF1", "f1"), ("mBPrecision", "precision"), ("mBRecall", "recall")):
        assert metrics[name] == pytest.approx(100 * scores[key][:2].sum() / 3, abs=1e-4)


def test_only_counts_are_kept():
    metric = BoundaryMetric()
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, [_sample(np.zeros((99, 99), int), np.ones((99, 99), int))])
    assert [counts.shape for counts in metric.results] == [(3, 4)]


def test_nothing_to_score(caplog):
    images = [_sample(np.zeros((9, 9), int))] * 2
    flat = [_sample(np.zeros((9, 9), int), np.full((9, 9), 255))]
    with caplog.at_level(logging.INFO):
        assert _evaluate(BoundaryMetric(), images) == {}
        assert _evaluate(BoundaryMetric(), flat) == {}
    with pytest.raises(DataError, match="2 of 3 images have no mask"):
        _evaluate(BoundaryMetric(), images + flat)
    # A model that says one class everywhere has no precision, and still an F1.
    truth = np.eye(9, dtype=int)
    metrics = _evaluate(BoundaryMetric(), [_sample(np.zeros((9, 9), int), truth)])
    assert metrics["mBF1"] == 0.0 and "mBPrecision" not in metrics


def test_beside_the_iou_metric():
    with DefaultScope.overwrite_default_scope("mmseg"):
        evaluator = Evaluator(
            [dict(type="hook.IoUMetric"), dict(type="hook.BoundaryMetric", tolerance=1)]
        )
    evaluator.dataset_meta = {"classes": CLASSES}
    maps = list(_maps(2))
    for truth, prediction in maps:
        evaluator.process([_sample(prediction, truth)])
    metrics = evaluator.evaluate(len(maps))
    assert next(iter(metrics)) == "mIoU"  # what save_best='auto' takes
    assert {"mIoU", "aAcc", "mBF1", "mBPrecision", "mBRecall", "BF1.town"} <= set(metrics)


def test_bad_input():
    with pytest.raises(ConfigError, match=r"hook\.BoundaryMetric: tolerance"):
        BoundaryMetric(tolerance=-1)
    with pytest.raises(ConfigError, match="has no class names"):
        BoundaryMetric().process({}, [_sample(np.zeros((2, 2), int))])
    good = np.zeros((2, 2), int)
    with pytest.raises(DataError, match="label outside the range"):
        _evaluate(BoundaryMetric(), [_sample(good, good + 3)])
    with pytest.raises(DataError, match="different sizes"):
        _evaluate(BoundaryMetric(), [_sample(good, np.zeros((3, 3), int))])
