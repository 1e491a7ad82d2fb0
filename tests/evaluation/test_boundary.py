"""Boundary counts against shapes whose answer is known and against a search tree."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from hook.errors import ConfigError, DataError
from hook.evaluation.boundary import (
    boundary_counts,
    boundary_scores,
    count_matched,
    label_boundary,
)


def _square(shift=0, side=20, size=60):
    labels = np.zeros((size, size), np.int64)
    labels[20 : 20 + side, 20 + shift : 20 + shift + side] = 1
    return labels


def _random_maps(rng, size, classes):
    """Two blobby label maps that resemble each other, with ignored pixels."""
    first = rng.normal(size=(classes, *size))
    second = first + rng.normal(size=first.shape)
    maps = [gaussian_filter(f, (0, 2, 2)).argmax(0) for f in (first, second)]
    maps[0][rng.random(size) < 0.05] = 255
    maps[0][:3, :5] = 255
    return maps


def _neighbours(y, x, shape):
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        if 0 <= y + dy < shape[0] and 0 <= x + dx < shape[1]:
            yield y + dy, x + dx


def _points(labels, label, ignore):
    """Boundary pixels of a class, found one by one."""
    return [
        (y, x)
        for y, x in np.argwhere(labels == label)
        if any(labels[p] not in (label, ignore) for p in _neighbours(y, x, labels.shape))
    ]


def _matched(points, others, tolerance):
    if not points or not others:
        return 0
    distances, _ = cKDTree(others).query(points)
    return int((distances <= tolerance).sum())


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 5**0.5, 13**0.5])
@pytest.mark.parametrize("size", [(40, 31), (1, 25), (9, 7)])
def test_against_a_search_tree(size, tolerance):
    truth, prediction = _random_maps(np.random.default_rng(size), size, classes=4)
    found = boundary_counts(truth, prediction, 5, tolerance)
    masked = np.where(truth == 255, 255, prediction)
    for label in range(5):
        true, predicted = _points(truth, label, 255), _points(masked, label, 255)
        assert found[label].tolist() == [
            _matched(predicted, true, tolerance),
            len(predicted),
            _matched(true, predicted, tolerance),
            len(true),
        ]
    assert found[:4].any() and not found[4].any()


def test_boundary_of_a_square():
    boundary = label_boundary(_square())
    inside = boundary & (_square() == 1)
    assert inside.sum() == 4 * 19  # the ring of a square of 20
    assert (boundary & (_square() == 0)).sum() == 4 * 20  # corners touch no side of it
    assert not label_boundary(np.ones((8, 8), int)).any()  # the image's border is none


def test_ignored_pixels_are_no_boundary_and_make_none():
    labels = np.array([[0, 0, 255, 1, 1]])
    assert not label_boundary(labels).any()
    assert label_boundary(labels, ignore_index=None).tolist() == [[False, True, True, True, False]]
    # The prediction does not count there either.
    truth = np.array([[0, 0, 0, 255, 255]])
    assert not boundary_counts(truth, np.array([[0, 0, 0, 1, 0]]), 2, tolerance=1).any()


@pytest.mark.parametrize("shift", [1, 2])
def test_a_shift_within_the_tolerance_is_perfect(shift):
    scores = boundary_scores(boundary_counts(_square(), _square(shift), 2, tolerance=2))
    for values in scores.values():
        assert values.tolist() == [1.0, 1.0]


def test_a_shift_beyond_the_tolerance():
    # Rings of 76 pixels, columns 20 to 39 and 23 to 42 of rows 20 to 39. Of the shifted one, the
    # left side meets the old top and bottom with the 3 rows next to each; top and bottom are met
    # in columns 24 to 41, at most 2 beyond the old ones' end; the right side is 3 from all.
    counts = boundary_counts(_square(), _square(3), 2, tolerance=2)
    matched = 2 * 3 + 2 * 18
    assert counts[1].tolist() == [matched, 76, matched, 76]
    assert boundary_scores(counts)["f1"][1] == pytest.approx(matched / 76)


def test_identical_maps_are_perfect():
    truth, _ = _random_maps(np.random.default_rng(0), (50, 50), classes=3)
    scores = boundary_scores(boundary_counts(truth, truth, 3, tolerance=0))
    for values in scores.values():
        assert values.tolist() == [1.0, 1.0, 1.0]


def test_undefined_scores():
    truth, flat = _square(), np.zeros((60, 60), int)
    scores = boundary_scores(boundary_counts(truth, flat, 3, tolerance=2))
    # Missed altogether: no precision, no recall of it, F1 of 0. Absent from both: nothing.
    assert np.isnan(scores["precision"]).all()
    assert scores["recall"][:2].tolist() == scores["f1"][:2].tolist() == [0.0, 0.0]
    assert np.isnan(scores["recall"][2]) and np.isnan(scores["f1"][2])
    swapped = boundary_scores(boundary_counts(flat, truth, 3, tolerance=2))
    assert np.isnan(swapped["recall"]).all() and swapped["f1"][1] == 0
    ignored = boundary_counts(np.full((60, 60), 255), truth, 3, tolerance=2)
    assert not ignored.any()
    assert np.isnan(boundary_scores(ignored)["f1"]).all()


def test_regions_of_any_number():
    # Tokens: more than 255 labels, and none of them ignored.
    tokens = np.arange(400).reshape(20, 20).repeat(3, 0).repeat(3, 1)
    boundary = label_boundary(tokens, ignore_index=None)
    assert not boundary[1::3, 1::3].any()  # the middles of the cells
    near = count_matched(np.ones_like(boundary), boundary, tolerance=1)
    assert near == boundary.size - 4  # all but the corners of the image


def test_bad_input():
    with pytest.raises(DataError, match="differ in size"):
        boundary_counts(np.zeros((2, 2), int), np.zeros((2, 3), int), 2, 1)
    with pytest.raises(DataError, match="outside the range"):
        boundary_counts(np.array([[0, 3]]), np.array([[0, 0]]), 2, 1)
    for tolerance in (-1, float("nan"), float("inf"), "3"):
        with pytest.raises(ConfigError, match="tolerance"):
            boundary_counts(np.zeros((2, 2), int), np.zeros((2, 2), int), 2, tolerance)
