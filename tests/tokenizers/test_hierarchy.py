"""Hierarchies of merges: their cuts, and Ward's clustering by scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from hook.tokenizers.hierarchy import merge_seeds, refine_borders, refinement_margin


@pytest.fixture
def seeds():
    """(2, 24, 20, 6) smooth features, and validity with holes."""
    rng = np.random.default_rng(0)
    features = ndimage.gaussian_filter(rng.random((2, 24, 20, 6)), (0, 1, 1, 0))
    valid = torch.ones(2, 24, 20, dtype=torch.bool)
    valid[0, 5:9, 3:8] = valid[0, 20, 13] = False
    return torch.from_numpy(features.astype(np.float32)), valid


def within(features, regions):
    """Sum of squared distances from the regions' means."""
    groups = [features[regions == number] for number in range(int(regions.max()) + 1)]
    return float(sum(((group - group.mean(dim=0)) ** 2).sum() for group in groups))


def test_cuts_are_nested_and_connected(seeds):
    features, valid = seeds
    hierarchy = merge_seeds(features, valid)
    assert hierarchy.num_merges.tolist() == (hierarchy.num_seeds - 1).tolist()
    finer = None
    for count in (1000, 300, 100, 33, 7, 2, 1):
        regions = hierarchy.cut(count)
        assert torch.equal(regions >= 0, valid)
        for image in range(2):
            number = min(count, int(valid[image].sum()))
            found, first = np.unique(regions[image].flatten(), return_index=True)
            first = first[found >= 0]
            assert len(first) == number and (np.diff(first) > 0).all()  # by their first seeds
            parts = [ndimage.label(regions[image].numpy() == one)[1] for one in range(number)]
            assert set(parts) == {1}
            if finer is not None:
                pairs = torch.stack([finer[image], regions[image]])[:, valid[image]]
                assert pairs.unique(dim=1).shape[1] == int(finer[image].max()) + 1
        finer = regions
    counts = torch.tensor([9, 4])
    assert hierarchy.cut(counts).amax(dim=(1, 2)).tolist() == [8, 3]


def test_costs(seeds):
    features, valid = seeds
    hierarchy = merge_seeds(features, valid)
    last, parent = {}, {}
    for first, second, cost in zip(
        hierarchy.first.tolist(), hierarchy.second.tolist(), hierarchy.cost.tolist(), strict=True
    ):
        assert first < second and second not in parent  # each is merged once, into an earlier one
        assert cost >= max(last.get(first, 0), last.get(second, 0))
        last[first], parent[second] = cost, first
    cost = hierarchy.cost.median()
    count = hierarchy.count_at_cost(cost)
    assert torch.equal(hierarchy.cut_at_cost(cost), hierarchy.cut(count))
    costs = torch.tensor([0.0, float(cost)])
    assert hierarchy.count_at_cost(costs).tolist() == [int(valid[0].sum()), int(count[1])]


def test_other_images_and_padding_change_nothing(seeds):
    features, valid = seeds
    both = merge_seeds(features, valid)
    padded, known = torch.full((1, 29, 33, 6), torch.nan), torch.zeros(1, 29, 33, dtype=torch.bool)
    padded[0, :24, :20], known[0, :24, :20] = features[0], valid[0]
    alone, padded = merge_seeds(features[:1], valid[:1]), merge_seeds(padded, known)
    count = len(alone.first)
    assert torch.equal(both.first[:count], alone.first)
    assert torch.equal(both.cost[:count], alone.cost) and torch.equal(alone.cost, padded.cost)
    for number in (3, 40):
        regions = alone.cut(number)[0]
        assert torch.equal(both.cut(number)[0], regions)
        assert torch.equal(padded.cut(number)[0, :24, :20], regions)
    everywhere = merge_seeds(features)
    assert torch.equal(everywhere.first, merge_seeds(features, torch.ones_like(valid)).first)


def test_merges_of_a_row():
    values = torch.tensor([0.0, 1, 10, 12, 30]).reshape(1, 1, 5, 1)
    hierarchy = merge_seeds(values)
    assert hierarchy.first.tolist() == [0, 2, 0, 0] and hierarchy.second.tolist() == [1, 3, 2, 4]
    assert hierarchy.cost.tolist() == pytest.approx([0.5, 2, 110.25, 4 / 5 * 24.25**2])
    # Sizes: three seeds that are 0 weigh as one of size 3.
    sizes = torch.tensor([3.0, 1, 1]).reshape(1, 1, 3)
    weighted = merge_seeds(torch.tensor([0.0, 1, 9]).reshape(1, 1, 3, 1), sizes=sizes)
    assert weighted.cost.tolist() == pytest.approx([3 / 4, 4 / 5 * 8.75**2])


def test_seeds_that_are_equal_or_apart():
    constant = torch.ones(1, 9, 7, 3)
    for count in (1, 5, 63):
        regions = merge_seeds(constant).cut(count)[0]
        assert len(regions.unique()) == count
    apart = torch.ones(1, 9, 7, dtype=torch.bool)
    apart[:, :, 3] = False
    hierarchy = merge_seeds(constant, apart)
    assert hierarchy.cut(1).unique().tolist() == [-1, 0, 1]  # a region per part
    nothing = merge_seeds(constant, torch.zeros_like(apart))
    assert len(nothing.first) == 0 and (nothing.cut(4) == -1).all()


@pytest.mark.parametrize("count", [4, 20, 100])
def test_regions_are_as_homogeneous_as_those_of_ward(seeds, count):
    cluster = pytest.importorskip("sklearn.cluster")
    grid_to_graph = pytest.importorskip("sklearn.feature_extraction.image").grid_to_graph
    features = seeds[0]
    for image in features:
        ward = cluster.AgglomerativeClustering(count, connectivity=grid_to_graph(24, 20))
        greedy = torch.from_numpy(ward.fit_predict(image.reshape(-1, 6)))
        regions = merge_seeds(image[None]).cut(count)[0].flatten()
        assert within(image.reshape(-1, 6), regions) < 1.05 * within(image.reshape(-1, 6), greedy)


def test_refined_borders_follow_the_edges_of_the_image():
    image = torch.zeros(1, 2, 33, 47)
    image[..., 22:] = 1.0  # an edge inside a seed
    image[0, :, 30:, :3] = float("nan")
    seeds = (torch.arange(47) >= 20).long().expand(1, 33, 47).clone()
    seeds[0, 30:, :3] = -1
    refined = refine_borders(seeds, image)
    known = seeds >= 0
    assert torch.equal(refined[known], (image[:, 0] > 0.5).long()[known])
    assert torch.equal(refined >= 0, known)
    assert torch.equal(refine_borders(seeds, image, steps=0), seeds)
    assert torch.equal(refine_borders(seeds.fill_(-7), image), torch.full_like(seeds, -1))


def test_refined_regions_stay_connected_whatever_the_image(seeds):
    features, valid = seeds
    regions = merge_seeds(features, valid).cut(40)
    regions = regions.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)[:, :-1, :-3]
    images = torch.randn(2, 3, *regions.shape[1:], generator=torch.Generator().manual_seed(0))
    refined = refine_borders(regions, images, steps=6, smoothness=0)
    assert (refined != regions).float().mean() > 0.1
    assert torch.equal(refined < 0, regions < 0)
    for one in refined.numpy():
        parts = [ndimage.label(one == number)[1] for number in range(40)]
        assert set(parts) == {1}
    # The other image of the batch changes nothing.
    alone = refine_borders(regions[1:], images[1:], steps=6, smoothness=0)
    assert torch.equal(alone[0], refined[1])


def test_parts_of_an_image_are_refined_as_the_whole(seeds):
    features, valid = seeds
    regions = merge_seeds(features, valid).cut(40)[:1]
    regions = regions.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)[:, :-1, :-3]
    image = torch.randn(1, 3, *regions.shape[1:], generator=torch.Generator().manual_seed(0))
    means = torch.stack([image[0][:, regions[0] == number].mean(dim=1) for number in range(40)])
    options = dict(smoothness=0, means=means[None])
    whole = refine_borders(regions, image, **options)
    assert torch.equal(whole, refine_borders(regions, image, smoothness=0))

    def by_parts(margin):
        result, side = torch.empty_like(regions), 12
        for row in range(0, regions.shape[1], side):
            for column in range(0, regions.shape[2], side):
                top, left = max(row - margin, 0), max(column - margin, 0)
                part = np.s_[..., top : row + side + margin, left : column + side + margin]
                found = refine_borders(regions[part], image[part], **options)
                found = found[:, row - top :, column - left :][:, :side, :side]
                result[:, row : row + side, column : column + side] = found
        return result

    assert torch.equal(by_parts(refinement_margin()), whole)
    assert not torch.equal(by_parts(2), whole)
