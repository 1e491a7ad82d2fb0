"""Baseline partitions: numbers of regions, connectedness, merging by hand and against scipy."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.ndimage import gaussian_filter

from hook.errors import ConfigError, DataError
from hook.evaluation.homogeneity import connected_components, region_boundary_scores
from hook.evaluation.superpixels import (
    felzenszwalb_regions,
    kmeans_regions,
    merge_by_colour,
    merge_by_similarity,
    merge_fragments,
    regular_grid,
    search_count,
    slic_regions,
)


@pytest.fixture(scope="module")
def image():
    """A smooth image of three bands."""
    noise = np.random.default_rng(0).random((64, 80, 3))
    smooth = gaussian_filter(noise, (3, 3, 0))
    return (smooth - smooth.min()) / np.ptp(smooth)


def _number(regions):
    assert np.array_equal(np.unique(regions), np.arange(regions.max() + 1))
    return regions.max() + 1


def _same_partition(first, second):
    pairs = np.unique(np.stack([np.ravel(first), np.ravel(second)]), axis=1)
    return pairs.shape[1] == len(np.unique(first)) == len(np.unique(second))


# ---------------------------------------------------------------------------------- grid
@pytest.mark.parametrize("size", [(64, 64), (30, 80), (81, 7)])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 16, 50, 256])
def test_a_grid_has_exactly_the_cells_asked_for(size, count):
    cells = regular_grid(size, count)
    assert cells.shape == size
    assert _number(cells) == count == _number(connected_components(cells))


def test_a_grid_of_squares():
    expected = np.arange(4).reshape(2, 2).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(regular_grid((8, 8), 4), expected)
    # Eight cells of a square: rows of two and three.
    areas = np.bincount(regular_grid((60, 60), 8).ravel())
    assert sorted(areas) == [400] * 6 + [600] * 2


def test_more_cells_than_pixels():
    with pytest.raises(ConfigError, match="into that many regions"):
        regular_grid((3, 3), 10)
    with pytest.raises(ConfigError, match="into that many regions"):
        slic_regions(np.zeros((3, 3, 3)), 0)


# ---------------------------------------------------------------------------------- k-means
def test_kmeans_by_colour_alone_finds_the_colours():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, (40, 40))
    colours = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
    image = colours[truth] + rng.normal(0, 0.01, (40, 40, 3))
    assert _same_partition(kmeans_regions(image, 3, position=0), truth)


def test_kmeans_by_position_alone_gives_connected_regions(image):
    regions = kmeans_regions(image, 6, position=1e3)
    assert _number(regions) == 6 == _number(connected_components(regions))
    # At the weight of 1 colour has its say, and the clusters fall into parts.
    assert _number(connected_components(kmeans_regions(image, 6))) > 6


def test_kmeans_is_the_same_for_the_same_seed(image):
    large = np.tile(image, (2, 2, 1))  # more pixels than it is fitted on
    first = kmeans_regions(large, 8, seed=3)
    assert _number(first) == 8
    assert np.array_equal(first, kmeans_regions(large, 8, seed=3))


def test_kmeans_of_few_colours_or_many_bands():
    assert _number(kmeans_regions(np.zeros((8, 8, 3)), 5, position=0)) == 1
    bands = np.zeros((8, 8, 5))
    bands[:, 4:, 2] = 1e4
    left = np.arange(8)[None].repeat(8, 0) < 4
    assert _same_partition(kmeans_regions(bands, 2, position=0.01), left)


# ---------------------------------------------------------------------------------- superpixels
@pytest.mark.parametrize("count", [2, 5, 8, 30])
def test_slic_gives_the_number_within_the_tolerance(image, count):
    regions = slic_regions(image, count)
    assert abs(_number(regions) - count) <= 0.05 * count
    assert _number(connected_components(regions)) == _number(regions)


@pytest.mark.parametrize("count", [3, 8, 40])
def test_felzenszwalb_gives_the_number_within_the_tolerance(image, count):
    regions = felzenszwalb_regions(image, count)
    assert abs(_number(regions) - count) <= 0.05 * count
    assert _number(connected_components(regions)) == _number(regions)
    assert np.bincount(regions.ravel()).min() >= 16


def test_superpixels_follow_edges():
    image = np.zeros((40, 40, 3))
    image[:, 13:] = (1.0, 0.5, 0.0)
    right = np.arange(40)[None].repeat(40, 0) >= 13
    assert _same_partition(slic_regions(image, 2), right)
    # Felzenszwalb and Huttenlocher blur the image first.
    scores = region_boundary_scores(right.astype(int), felzenszwalb_regions(image, 2), 1)
    assert scores == {"recall": 1, "precision": 1, "f1": 1}


def test_an_image_without_content_gives_the_nearest_number():
    assert _number(felzenszwalb_regions(np.zeros((32, 32, 3)), 8)) <= 8


def _bars(parameter):
    """As many columns as the parameter says."""
    return np.arange(1000)[None] * round(parameter) // 1000


def test_search_finds_a_parameter_from_either_side():
    for start in (1, 37, 900):
        assert _number(search_count(_bars, 100, (1, 1000), 0, start, rising=True)) == 100

    def falling(parameter):
        return _bars(1000 / parameter)

    found = _number(search_count(falling, 100, (1, 1000), 0.02, 500, rising=False))
    assert 98 <= found <= 102


def test_search_gives_the_nearest_where_the_number_jumps():
    def jump(parameter):
        return _bars(10 if parameter < 50 else 30)

    assert _number(search_count(jump, 14, (1, 1000), 0.05, 500, rising=True)) == 10
    assert _number(search_count(jump, 29, (1, 1000), 0.01, 2, rising=True)) == 30


# ---------------------------------------------------------------------------------- fragments
def test_a_fragment_joins_the_neighbour_with_the_longest_border():
    regions = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 2, 2, 1, 1], [0, 0, 0, 1, 1, 1]])
    # Region 2 has borders of 3 with either; the lower label takes it.
    merged = merge_fragments(regions, 4)
    assert merged.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    regions[0, 2] = 1  # now 4 with region 1
    merged = merge_fragments(regions, 4)
    assert merged.tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_fragments_that_merge_may_be_large_enough():
    # The single pixel joins the lower label; with a least size of 3, those of 2 come next.
    regions = np.array([[6, 6, 2, 8, 8, 8]])
    assert merge_fragments(regions, 3).tolist() == [[0, 0, 0, 1, 1, 1]]
    regions = np.array([[9, 9, 9, 9, 5, 7, 7, -1, 3, 3, 3]])
    assert merge_fragments(regions, 3).tolist() == [[0, 0, 0, 0, 0, 0, 0, -1, 1, 1, 1]]


def test_equal_labels_apart_are_two_components():
    regions = np.array([[4, 4, 1, 1, 4, 4]])
    assert merge_fragments(regions, 2).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_a_fragment_without_a_neighbour_stays():
    regions = np.array([[-1, 3, -1, 2, 2]])
    assert merge_fragments(regions, 5).tolist() == [[-1, 0, -1, 1, 1]]


def test_after_merging_no_fragment_is_left():
    regions = np.random.default_rng(2).integers(0, 4, (50, 60))
    merged = merge_fragments(regions, 16)
    assert np.bincount(merged.ravel()).min() >= 16
    assert np.array_equal(connected_components(merged), merged)
    # What was large enough stays together.
    parts = connected_components(regions)
    for part in np.flatnonzero(np.bincount(parts.ravel()) >= 16):
        assert len(np.unique(merged[parts == part])) == 1
    assert np.array_equal(merge_fragments(merged, 16), merged)


def test_a_speck_goes_to_the_neighbour_it_looks_like():
    owners = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 2, 2, 1, 1], [0, 0, 0, 1, 1, 1]])
    colours = np.where(owners == 0, 1.0, 5.0)[None]
    colours[:, owners == 2] = 4.0  # nearer to token 1, though borders and order are for token 0
    assert merge_by_colour(owners, colours, 3).tolist() == [
        [0, 0, 0, 1, 1, 1],
        [0, 0] + [1] * 4,
    ] + [[0, 0, 0, 1, 1, 1]]
    colours[:, owners == 2] = 2.0
    assert merge_by_colour(owners, colours, 3)[1].tolist() == [0, 0, 0, 0, 1, 1]
    assert np.array_equal(merge_by_colour(owners, colours, 2), owners)


def test_what_took_in_a_speck_has_the_colours_of_both():
    # The pixel of 3 joins that of 4 (token 2): their mean, 3.5, is nearer to 5.5 than to 1.
    owners, colours = (
        np.array([[0, 0, 0, 1, 2, 3, 3, 3]]),
        np.array([[1, 1, 1, 3, 4, 5.5, 5.5, 5.5]]),
    )
    assert merge_by_colour(owners, colours[None], 2).tolist() == [[0, 0, 0, 2, 2, 3, 3, 3]]
    assert merge_by_colour(owners, colours[None], 3).tolist() == [[0, 0, 0, 3, 3, 3, 3, 3]]


def test_no_speck_is_left_and_no_cell_gets_lost():
    rng = np.random.default_rng(4)
    owners, colours = rng.integers(0, 5, (40, 50)), rng.random((3, 40, 50))
    owners[:6, :9] = -1
    colours[:, 20, 20] = np.nan
    merged = merge_by_colour(owners, colours, 12)
    assert np.array_equal(merged < 0, owners < 0) and set(merged.ravel()) <= set(owners.ravel())
    parts = connected_components(merged)
    assert np.bincount(parts[parts >= 0]).min() >= 12
    large = connected_components(owners)
    for part in np.flatnonzero(np.bincount(large[large >= 0]) >= 12):
        assert np.array_equal(merged[large == part], owners[large == part])
    assert (merge_by_colour(np.full((3, 4), -1), np.zeros((1, 3, 4)), 5) == -1).all()


# ---------------------------------------------------------------------------------- similarity
def test_merging_a_line_is_wards_clustering():
    # In one dimension Ward's criterion always joins neighbours: the constraint changes nothing.
    values = np.sort(np.random.default_rng(3).random(40))
    tree = linkage(values[:, None], "ward")
    counts = [1, 2, 7, 25, 40]
    for count, merged in zip(
        counts, merge_by_similarity(values[:, None], np.arange(40)[None], counts), strict=True
    ):
        assert _same_partition(merged, fcluster(tree, count, "maxclust"))


def test_only_neighbours_merge():
    # Equal corners of a 2 x 2 grid do not touch; of the two pairs that are 5 apart the first goes.
    features = np.array([[0.0], [5.0], [6.0], [0.0]])
    (merged,) = merge_by_similarity(features, np.arange(4).reshape(2, 2), [3])
    assert merged.tolist() == [[0, 0], [1, 2]]


def test_merged_patches_are_connected_and_as_many_as_asked():
    features = np.random.default_rng(4).random((64, 12))
    cells = np.arange(64).reshape(8, 8).repeat(4, 0).repeat(4, 1)
    for count, merged in zip(
        [70, 64, 9], merge_by_similarity(features, cells, [70, 64, 9]), strict=True
    ):
        assert _number(merged) == min(count, 64) == _number(connected_components(merged))
        assert all(len(np.unique(merged[cells == cell])) == 1 for cell in range(64))


def test_bad_cells():
    with pytest.raises(DataError, match="do not match"):
        merge_by_similarity(np.zeros((3, 2)), np.arange(4)[None], [2])
    with pytest.raises(DataError, match="the cells are not connected"):
        merge_by_similarity(np.zeros((3, 2)), np.array([[0, 0], [0, 0]]), [1])
    with pytest.raises(ConfigError, match="into that many regions"):
        merge_by_similarity(np.zeros((2, 2)), np.array([[0, 1]]), [0])
    with pytest.raises(DataError, match="needs bands"):
        kmeans_regions(np.zeros((4, 4)), 2)
