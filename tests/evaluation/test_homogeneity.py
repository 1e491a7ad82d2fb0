"""Measures of regions against cases worked out by hand, brute force and other implementations."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import contingency_table
from skimage.metrics import variation_of_information as skimage_variation

from hook.errors import ConfigError, DataError
from hook.evaluation.homogeneity import (
    MEASURES,
    achievable_accuracy,
    adjusted_rand_index,
    common_variance,
    compactness,
    connected_components,
    explained_variation,
    measure_regions,
    object_map,
    object_share,
    overlap_matrix,
    region_boundary_scores,
    stuff_classes,
    token_share,
    undersegmentation_error,
    variation_of_information,
    weight_cosine,
)
from hook.tokenizers.assignment import explained_variance


def _blocks(seed, count, size=(24, 30)):
    """Random labels in blocks of 2 x 3 pixels."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, count, (size[0] // 2, size[1] // 3))
    return small.repeat(2, 0).repeat(3, 1)


def _halves(first, second):
    """An 8 x 8 map of two halves, left and right."""
    labels = np.full((8, 8), first)
    labels[:, 4:] = second
    return labels


# ---------------------------------------------------------------------------------- objects
def test_components_are_those_of_scipy():
    labels = _blocks(0, 3)
    labels[5:9, 4:20] = -1
    parts = connected_components(labels)
    assert np.array_equal(parts < 0, labels < 0)
    total = 0
    for value in range(3):
        reference, count = ndimage.label(labels == value)
        total += count
        for number in range(1, count + 1):
            inside = reference == number
            (part,) = np.unique(parts[inside])
            assert np.array_equal(parts == part, inside)
    assert parts.max() + 1 == total
    first_pixels = [np.flatnonzero(parts.ravel() == part)[0] for part in range(total)]
    assert first_pixels == sorted(first_pixels)


def test_corners_do_not_connect():
    assert connected_components(np.eye(2, dtype=np.uint8)).tolist() == [[0, 1], [2, 3]]


def test_objects_of_classes_and_of_stuff():
    truth = np.array([[0, 1, 0, 1, 255], [0, 1, 0, 1, 0]], np.uint8)
    assert object_map(truth).tolist() == [[0, 1, 2, 3, -1], [0, 1, 2, 3, 4]]
    assert object_map(truth, stuff=(0,)).tolist() == [[0, 1, 0, 2, -1], [0, 1, 0, 2, 0]]
    # Without an ignored label 255 is a class like any other.
    assert object_map(truth, None, stuff=(0,)).tolist() == [[0, 1, 0, 2, 3], [0, 1, 0, 2, 0]]
    assert stuff_classes(("Background", "building")) == (0,)
    assert stuff_classes(("water", "field")) == ()


# ---------------------------------------------------------------------------------- overlap
def test_overlap_is_scikit_images_contingency_table():
    segments, regions = _blocks(1, 5), _blocks(2, 7)
    expected = contingency_table(segments, regions, normalize=False).toarray()
    assert np.array_equal(overlap_matrix(segments, regions), expected)


def test_overlap_leaves_out_what_is_unknown():
    segments = np.array([[-1, 0, 4, 4]])
    regions = np.array([[0, 2, 2, -1]])
    assert overlap_matrix(segments, regions).tolist() == [[1], [1]]
    assert overlap_matrix(segments, np.full((1, 4), -1)).size == 0


def test_equal_partitions_are_perfect():
    segments = _blocks(3, 4)
    overlap = overlap_matrix(segments, 9 - segments)
    assert np.count_nonzero(overlap) == 4
    assert object_share(overlap) == token_share(overlap) == achievable_accuracy(overlap) == 1
    assert undersegmentation_error(overlap) == 0
    assert variation_of_information(overlap) == pytest.approx((0, 0), abs=1e-12)


def test_shares_and_errors_by_hand():
    # Two objects of 32 pixels; one token has 8 columns less one quarter of the right half.
    regions = np.zeros((8, 8), int)
    regions[4:, 6:] = 1
    overlap = overlap_matrix(_halves(0, 1), regions)
    assert overlap.tolist() == [[32, 0], [24, 8]]
    assert object_share(overlap) == (1 + 24 / 32) / 2
    assert token_share(overlap) == (32 / 56 + 1) / 2
    assert achievable_accuracy(overlap) == 40 / 64
    assert undersegmentation_error(overlap) == (24 + 24) / 64  # the smaller part, for each segment


def test_one_token_and_a_token_per_pixel():
    segments = _halves(0, 1)
    one = overlap_matrix(segments, np.zeros((8, 8), int))
    assert (object_share(one), token_share(one), achievable_accuracy(one)) == (1, 0.5, 0.5)
    assert variation_of_information(one) == pytest.approx((1, 0))  # a bit tells the halves apart
    each = overlap_matrix(segments, np.arange(64).reshape(8, 8))
    assert (object_share(each), token_share(each), achievable_accuracy(each)) == (1 / 32, 1, 1)
    assert variation_of_information(each) == pytest.approx((0, 5))
    assert undersegmentation_error(each) == 0


def test_leaks_and_accuracy_against_loops():
    segments, regions = _blocks(4, 6), _blocks(5, 9)
    leak = right = 0
    for region in range(9):
        inside = regions == region
        right += max(np.count_nonzero(inside & (segments == s)) for s in range(6))
        for segment in range(6):
            common = np.count_nonzero(inside & (segments == segment))
            if common:
                leak += min(common, np.count_nonzero(inside & (segments != segment)))
    overlap = overlap_matrix(segments, regions)
    assert undersegmentation_error(overlap) == pytest.approx(leak / segments.size)
    assert achievable_accuracy(overlap) == pytest.approx(right / segments.size)


def test_information_is_scikit_images():
    segments, regions = _blocks(6, 5), _blocks(7, 8)
    merged, split = variation_of_information(overlap_matrix(segments, regions))
    # scikit-image gives false splits first, then false merges.
    assert (split, merged) == pytest.approx(tuple(skimage_variation(segments, regions)))
    assert merged != pytest.approx(split)


def test_nothing_known():
    empty = overlap_matrix(np.full((3, 3), -1), np.zeros((3, 3), int))
    for measure in (object_share, token_share, achievable_accuracy, undersegmentation_error):
        assert math.isnan(measure(empty))
    assert np.isnan(variation_of_information(empty)).all()


# ---------------------------------------------------------------------------------- boundaries
def test_boundaries_within_a_tolerance():
    segments, regions = np.zeros((2, 8, 16), int)
    segments[:, 6:], regions[:, 8:] = 1, 1
    far = region_boundary_scores(segments, regions, 0)
    assert far == {"recall": 0, "precision": 0, "f1": 0}
    # Columns 5 and 6 against 7 and 8: one of each pair is within a pixel, both within two.
    near = region_boundary_scores(segments, regions, 1)
    assert near == {"recall": 0.5, "precision": 0.5, "f1": 0.5}
    assert region_boundary_scores(segments, regions, 2) == {"recall": 1, "precision": 1, "f1": 1}


def test_superfluous_boundaries_cost_precision_alone():
    segments = np.zeros((8, 16), int)
    segments[:, 4:] = 1
    regions = segments.copy()
    regions[:, 12:] = 2
    scores = region_boundary_scores(segments, regions, 1)
    assert scores == {"recall": 1, "precision": 0.5, "f1": pytest.approx(2 / 3)}


def test_boundaries_where_nothing_is_known_do_not_count():
    segments = np.zeros((8, 16), int)
    segments[:, 8:] = -1
    regions = np.zeros((8, 16), int)
    regions[:, 12:] = 1
    scores = region_boundary_scores(segments, regions, 2)
    assert all(math.isnan(value) for value in scores.values())


# ---------------------------------------------------------------------------------- no truth
def test_explained_variation_is_that_of_seeds():
    rng = np.random.default_rng(8)
    image, regions = rng.random((24, 30, 3)) + 5, _blocks(8, 6)
    reference = explained_variance(
        torch.from_numpy(image).reshape(1, -1, 3), torch.from_numpy(regions).reshape(1, -1)
    )
    assert explained_variation(image, regions) == pytest.approx(reference.item())


def test_explained_variation_by_hand():
    image = _halves(10.0, 30.0)[..., None]
    assert explained_variation(image, _halves(3, 7)) == pytest.approx(1)
    assert explained_variation(image, np.zeros((8, 8), int)) == pytest.approx(0)
    # Upper half in one region, the lower in two: half of the variance is left.
    regions = np.where(np.arange(8)[:, None] < 4, 0, _halves(1, 2))
    assert explained_variation(image, regions) == pytest.approx(0.5)
    # Only the left half counts, which has one value.
    assert explained_variation(image, _halves(0, -1)) == 1
    assert math.isnan(explained_variation(image, np.full((8, 8), -1)))


def test_compactness_by_hand():
    assert compactness(_blocks(0, 1, (24, 24))) == pytest.approx(math.pi / 4)
    assert compactness(np.zeros((1, 4), int)) == pytest.approx(4 * math.pi * 4 / 100)
    # A square of 16 pixels beside a column of 4, by area.
    regions = np.zeros((4, 5), int)
    regions[:, 4] = 1
    expected = (16 * math.pi / 4 + 4 * 4 * math.pi * 4 / 100) / 20
    assert compactness(regions) == pytest.approx(expected)
    # Parts of one region add up their perimeters; what is no region does not count.
    assert compactness(np.array([[5, -1, 5]])) == pytest.approx(4 * math.pi * 2 / 64)
    disc = np.hypot(*np.mgrid[-60:61, -60:61]) <= 60
    assert compactness(np.where(disc, 0, -1)) == pytest.approx(math.pi**2 / 16, rel=0.02)
    assert math.isnan(compactness(np.full((2, 2), -1)))


def test_adjusted_rand_index():
    truth = np.repeat([[0, 0, 1, 1]], 3, axis=0)
    assert adjusted_rand_index(truth, 7 - truth) == 1
    # Of the pairs among 3 + 3 pixels of known regions, by hand: one column of three is split off.
    regions = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 1, -1]])
    sums = [1 + 6 + 10, 15 + 10, 6 + 10 + 1, 55]  # pairs together: in both, in each, of all
    chance = sums[1] * sums[2] / sums[3]
    expected = (sums[0] - chance) / ((sums[1] + sums[2]) / 2 - chance)
    assert adjusted_rand_index(truth, regions) == pytest.approx(expected)
    chance = np.random.default_rng(0).integers(4, size=(2, 80, 80))
    assert abs(adjusted_rand_index(*chance)) < 0.01
    assert math.isnan(adjusted_rand_index(truth, np.full((3, 4), -1)))


# ---------------------------------------------------------------------------------- all of them
def test_accuracy_is_of_classes_and_shares_are_of_objects():
    truth = np.zeros((9, 20), np.uint8)
    truth[2:6, 2:8] = truth[2:6, 12:18] = 1
    image = np.random.default_rng(0).random((9, 20, 2))
    by_class = measure_regions(truth, truth, image, tolerance=0, stuff=(0,))
    assert list(by_class) == list(MEASURES)
    assert by_class["ASA"] == by_class["BoundaryF1"] == by_class["ObjectShare"] == 1
    assert by_class["TokenShare"] == (1 + 0.5) / 2  # the second token has both buildings
    assert by_class["VI"] > 0 and by_class["UE"] > 0
    by_object = measure_regions(object_map(truth), truth, image, tolerance=0, stuff=(0,))
    assert by_object["TokenShare"] == 1 and by_object["VI"] == 0 and by_object["UE"] == 0
    assert by_object["EV"] == pytest.approx(explained_variation(image, object_map(truth)))


def test_ignored_pixels_count_for_no_truth():
    truth = _halves(0, 1).astype(np.uint8)
    regions = _halves(0, 1)
    regions[:2] = 2
    truth[:2] = 255
    values = measure_regions(regions, truth)
    perfect = {"ObjectShare": 1, "TokenShare": 1, "ASA": 1, "UE": 0, "BoundaryF1": 1, "VI": 0}
    assert {name: values[name] for name in perfect} == perfect
    assert math.isnan(values["EV"])  # no image
    assert measure_regions(regions, truth, ignore_index=None)["ASA"] == 1  # 255 is a class now


def test_bad_input():
    with pytest.raises(DataError, match="differ in size"):
        overlap_matrix(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(DataError, match="differ in size"):
        region_boundary_scores(np.zeros((2, 2), int), np.zeros((2, 3), int), 1)
    with pytest.raises(DataError, match="differ in size"):
        explained_variation(np.zeros((2, 2, 3)), np.zeros((2, 3), int))
    with pytest.raises(ConfigError, match="tolerance"):
        region_boundary_scores(_halves(0, 1), _halves(0, 1), -1)


def test_variance_common_to_tokens():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(50, 1, 8))
    assert common_variance(one + rng.normal(size=(6, 8))) == pytest.approx(1)  # equal but constants
    assert common_variance(one) == 1
    tokens = rng.normal(size=(4000, 6, 8))
    assert common_variance(tokens) == pytest.approx(1 / 6, abs=0.01)
    # Two parts of the variance, a share of which is the image's: an analysis of variance.
    assert common_variance(2 * rng.normal(size=(4000, 1, 8)) + tokens) == pytest.approx(
        (4 + 1 / 6) / 5, abs=0.01
    )
    assert math.isnan(common_variance(np.ones((3, 2, 4))))


def test_cosine_of_the_weights_of_tokens():
    rng = np.random.default_rng(0)
    weights = rng.random((5, 4, 3))
    rows = torch.from_numpy(weights.reshape(5, -1))
    pairs = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    expected = (pairs.sum() - 5) / 20
    assert weight_cosine(weights) == pytest.approx(float(expected))
    regions = rng.integers(0, 3, (4, 3))
    one_hot = (regions == np.arange(4)[:, None, None]).astype(float)  # the last has no seed
    assert weight_cosine(one_hot) == pytest.approx(0)
    assert math.isnan(weight_cosine(one_hot[3:]))
