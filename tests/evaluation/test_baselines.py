import numpy as np
import pytest
import torch
from scipy.cluster.vq import vq
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from hook.errors import ConfigError, DataError
from hook.evaluation.baselines import (
    MajorityClass,
    NearestCentroid,
    check_margins,
    segmentation_scores,
)
from hook.evaluation.confusion import confusion_matrix


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (40, 30)).astype(np.uint8)
    prediction = np.where(rng.uniform(size=truth.shape) < 0.6, truth, rng.integers(0, 4, (40, 30)))
    truth[:5] = 255
    return truth, prediction


def test_confusion_matrix_equals_torchmetrics(maps):
    truth, prediction = maps
    metric = MulticlassConfusionMatrix(4, ignore_index=255)
    expected = metric(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    assert np.array_equal(confusion_matrix(truth, prediction, 4), expected.numpy())


def test_scores_equal_torchmetrics(maps):
    truth, prediction = maps
    scores = segmentation_scores(confusion_matrix(truth, prediction, 4))
    metric = MulticlassJaccardIndex(4, average="none", ignore_index=255)
    iou = metric(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()).numpy()
    np.testing.assert_allclose(scores["IoU"], 100 * iou, rtol=1e-5)
    assert scores["mIoU"] == pytest.approx(100 * iou.mean(), rel=1e-5)
    seen = truth != 255
    assert scores["aAcc"] == pytest.approx(100 * (truth == prediction)[seen].mean())


def test_class_that_never_occurs_does_not_count():
    confusion = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    scores = segmentation_scores(confusion)
    assert scores["IoU"][:2] == pytest.approx([80.0, 1000 / 12])
    assert np.isnan(scores["IoU"][2])
    assert scores["mIoU"] == pytest.approx((80 + 1000 / 12) / 2)


def test_labels_outside_the_range_are_named():
    truth = np.array([[0, 7]])
    with pytest.raises(DataError, match="outside the range in the truth") as error:
        confusion_matrix(truth, np.zeros_like(truth), 3)
    assert "0 to 7" in str(error.value)
    with pytest.raises(DataError, match="label outside the range"):
        MajorityClass(3).partial_fit(truth)
    with pytest.raises(DataError, match="differ in size"):
        confusion_matrix(truth, np.zeros((3, 3), int), 3)


def test_majority_class_ignores_unlabelled_pixels():
    labels = np.array([[255, 255, 255, 255], [1, 1, 2, 0]])
    majority = MajorityClass(3).partial_fit(labels).partial_fit(np.array([[2, 2]]))
    assert majority.label == 2
    assert np.array_equal(majority.predict(np.zeros((4, 2, 3))), np.full((2, 3), 2))
    with pytest.raises(DataError, match="no labelled pixel"):
        _ = MajorityClass(3).label


def test_nearest_centroid_equals_vector_quantisation():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (50, 20))
    level = np.array([[100, 4000], [300, 4100], [320, 9000]])[labels]
    image = np.rint(level + rng.normal(0, (60, 1500), (50, 20, 2))).astype(np.uint16)
    image = np.moveaxis(image, -1, 0)
    model = NearestCentroid(3, 2)
    for part in (slice(0, 20), slice(20, 50)):
        model.partial_fit(image[:, part], labels[part])
    pixels = image.reshape(2, -1).T.astype(float)
    centroids = np.stack([pixels[labels.ravel() == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(model.centroids, centroids)
    np.testing.assert_allclose(model.mean, pixels.mean(0))
    np.testing.assert_allclose(model.scale, pixels.std(0))
    code, _ = vq(pixels / pixels.std(0), centroids / pixels.std(0))
    assert np.array_equal(model.predict(image).ravel(), code)


def test_nearest_centroid_keeps_precision_far_from_zero():
    rng = np.random.default_rng(2)
    values = (1e8 + rng.normal(0, 1, (1, 30, 30))).astype(np.float64)
    model = NearestCentroid(2, 1).partial_fit(values, (values[0] > 1e8).astype(int))
    assert model.scale[0] == pytest.approx(values.std(), rel=1e-6)


def test_nearest_centroid_leaves_out_invalid_pixels_and_unseen_classes():
    image = np.array([[[10.0, 12.0, 99.0, 50.0]]])
    labels = np.array([[0, 0, 0, 2]])
    valid = np.array([[1, 1, 0, 1]])
    model = NearestCentroid(3, 1).partial_fit(image, labels, valid)
    assert model.centroids[0, 0] == pytest.approx(11.0)
    assert np.isnan(model.centroids[1, 0])
    assert set(np.unique(model.predict(np.linspace(0, 100, 50).reshape(1, 1, -1)))) == {0, 2}


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((3, 4, 4)), np.zeros((4, 4), int), "the number of bands of the image differs"),
        (np.zeros((2, 4, 4)), np.zeros((4, 5), int), "differ in size"),
    ],
)
def test_nearest_centroid_refuses_what_does_not_fit(image, labels, message):
    with pytest.raises(DataError, match=message):
        NearestCentroid(2, 2).partial_fit(image, labels)


def test_nothing_learned_is_an_error():
    with pytest.raises(DataError, match="no labelled pixel"):
        NearestCentroid(2, 2).predict(np.zeros((2, 4, 4)))


def test_margins():
    assert list(check_margins(60, 13, 45)) == []
    assert list(check_margins(45, 25, 45)) == []
    missed = check_margins(40, 25, 45)
    assert len(missed) == 2 and "20 points" in missed[0] and "nearest-centroid" in missed[1]
    with pytest.raises(ConfigError, match="not a number"):
        check_margins(float("nan"), 1, 2)


def test_pixels_that_are_not_finite_have_no_class():
    image = np.array([[[0.0, np.nan, 1.0, np.inf]]])
    model = NearestCentroid(2, 1).partial_fit(image, np.array([[0, 0, 1, 1]]))
    assert model.centroids.tolist() == [[0], [1]]
    assert model.predict(image).tolist() == [[0, 255, 1, 255]]
