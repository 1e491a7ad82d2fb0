"""IoU against mmseg's metric and against counts by hand; ignored, absent and wrong labels."""

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from PIL import Image
from sklearn.metrics import (
    balanced_accuracy_score,
    fbeta_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from hook.errors import ConfigError, DataError
from hook.evaluation.iou_metric import IoUMetric

CLASSES = ("field", "forest", "town")


def _sample(prediction, truth=None, **more):
    sample = {"pred_sem_seg": {"data": torch.as_tensor(prediction)[None]}, "img_path": "a.tif"}
    if truth is not None:
        sample["gt_sem_seg"] = {"data": torch.as_tensor(truth)[None]}
    return sample | more


def _evaluate(metric, samples):
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize("metrics", [["mIoU"], ["mIoU", "mDice", "mFscore"]])
def test_against_mmseg(metrics):
    rng = np.random.default_rng(0)
    samples = []
    for size in ((16, 16), (1, 9), (7, 5)):
        truth = rng.integers(0, 3, size)
        truth[rng.random(size) < 0.2] = 255
        samples.append(_sample(rng.integers(0, 3, size), truth))
    ours = _evaluate(IoUMetric(iou_metrics=metrics), samples)
    theirs = _evaluate(MMSegIoUMetric(iou_metrics=metrics), samples)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=0.006)  # mmseg rounds to two digits


def test_by_hand_with_ignored_pixels_and_an_absent_class():
    truth = np.array([[0, 0, 1, 255]])
    prediction = np.array([[0, 1, 1, 0]])
    metrics = _evaluate(IoUMetric(), [_sample(prediction, truth)])
    assert metrics["IoU.field"] == 50.0  # hit 1, union 2
    assert metrics["IoU.forest"] == 50.0
    assert "IoU.town" not in metrics
    assert metrics["mIoU"] == 50.0
    assert metrics["aAcc"] == pytest.approx(200 / 3, abs=1e-4)
    assert next(iter(metrics)) == "mIoU"  # what save_best='auto' takes


def test_counts_are_exact_beyond_float32():
    metric = IoUMetric()
    metric.dataset_meta = {"classes": CLASSES}
    one = np.zeros((3, 3), np.int64)
    one[0, 0] = 2**24
    many = one.copy()
    many[0, 0], many[0, 1] = 1, 3
    metrics = metric.compute_metrics([(one, None), (many, None)])
    assert metrics["aAcc"] == round((2**24 + 1) / (2**24 + 4) * 100, 4)


def test_prediction_only(tmp_path):
    metric = IoUMetric(format_only=True, output_dir=str(tmp_path))
    assert _evaluate(metric, [_sample(np.zeros((4, 4), int))]) == {}
    assert (tmp_path / "a.png").exists()


def test_bad_input():
    with pytest.raises(ConfigError, match="mIoo"):
        IoUMetric(iou_metrics=["mIoo"])
    good = np.zeros((2, 2), int)
    with pytest.raises(DataError, match="mask.tif: label outside the range") as caught:
        _evaluate(IoUMetric(), [_sample(good, good + 3, seg_map_path="mask.tif")])
    assert "found: 3 to 3" in str(caught.value)
    with pytest.raises(DataError, match="different sizes"):
        _evaluate(IoUMetric(), [_sample(good, np.zeros((3, 3), int))])
    with pytest.raises(DataError, match="a.tif has no mask"):
        _evaluate(IoUMetric(), [_sample(good)])
    with pytest.raises(DataError, match="no labelled pixel"):
        _evaluate(IoUMetric(), [_sample(good, good + 255)])


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("beta", [1, 2])
@pytest.mark.parametrize(("true", "predicted"), [((0, 1), (0, 1, 2)), ((0, 1, 2), (0, 1))])
def test_means_equal_scikit_learns_with_a_class_in_one_of_both(true, predicted, beta):
    rng = np.random.default_rng(0)
    truth, prediction = rng.choice(true, (9, 9)), rng.choice(predicted, (9, 9))
    metrics = _evaluate(
        IoUMetric(iou_metrics=["mIoU", "mDice", "mFscore"], beta=beta),
        [_sample(prediction, truth)],
    )
    pair, macro = (truth.ravel(), prediction.ravel()), dict(average="macro", zero_division=0)
    for name, expected in {
        "mFscore": fbeta_score(*pair, beta=beta, **macro),
        "mDice": fbeta_score(*pair, beta=1, **macro),
        "mIoU": jaccard_score(*pair, **macro),
        "mPrecision": precision_score(*pair, **macro),
        "mRecall": recall_score(*pair, **macro),
        "mAcc": balanced_accuracy_score(*pair),
    }.items():
        assert metrics[name] == pytest.approx(100 * expected, abs=1e-4), name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_without_finite_scores_are_no_prediction(value, tmp_path):
    logits = torch.zeros(3, 2, 2)
    logits[:, 0, 0] = value
    scores = {"seg_logits": {"data": logits}}
    truth = np.zeros((2, 2), int)
    with pytest.raises(DataError, match="predicts no class"):
        _evaluate(IoUMetric(), [_sample(truth, truth, **scores)])
    truth[0, 0] = 255
    assert _evaluate(IoUMetric(), [_sample(0 * truth, truth, **scores)])["IoU.field"] == 100
    metric = IoUMetric(format_only=True, output_dir=str(tmp_path))
    with pytest.warns(UserWarning, match=r"no class for 25\.0%"):
        _evaluate(metric, [_sample(0 * truth, **scores)])
    assert np.asarray(Image.open(tmp_path / "a.png"))[0].tolist() == [255, 0]


@pytest.mark.parametrize("ignored", [-1, 2, 250])
def test_the_label_to_ignore_is_that_of_the_dataset(ignored):
    truth, prediction = np.array([[0, 1, ignored]]), np.array([[0, 0, 1]])
    metric = IoUMetric()
    metric.dataset_meta = {"classes": CLASSES, "ignore_index": ignored}
    metric.process({}, [_sample(prediction, truth)])
    assert metric.evaluate(1)["aAcc"] == 50.0
