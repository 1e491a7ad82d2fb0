"""Alignment of representations."""

import numpy as np
import pytest
import torch
from torch import nn

from hook.errors import ConfigError, DataError
from hook.evaluation.alignment import cka, cknna, hsic, mutual_knn, prepare_features
from hook.evaluation.alignment_metric import AlignmentMetric
from hook.registry import MODELS
from hook.structures import CodecDataSample


def features(seed, num=60, width=8):
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed)).double()


def test_slots_with_invalid_pixels_are_all_averaged():
    sample = dict(latents=torch.arange(6.0).view(1, 6, 1), features=torch.ones(2, 3, 3))
    valid = torch.ones(9, 9, dtype=torch.bool)
    valid[:5] = False
    metric = AlignmentMetric()
    metric.process({}, [sample | dict(token_ids=torch.zeros(3, 3), valid_mask=valid)])
    assert metric.results[0][2].tolist() == [2.5]


def test_unbiased_hsic_is_the_mean_over_quadruples():
    """The definition of Song et al.: expectations over different rows, enumerated."""
    k, l = (x @ x.T for x in (features(0, 6), features(1, 6)))  # noqa: E741
    sums = dict(pairs=0.0, fours=0.0, triples=0.0)
    counts = dict(pairs=0, fours=0, triples=0)
    for i, j, q, r in np.ndindex(6, 6, 6, 6):
        if len({i, j, q, r}) == 4:
            sums["fours"] += k[i, j] * l[q, r]
            sums["triples"] += k[i, j] * l[i, q]
            sums["pairs"] += k[i, j] * l[i, j]
            counts = {key: value + 1 for key, value in counts.items()}
    means = {key: float(sums[key] / counts[key]) for key in sums}
    expected = means["pairs"] + means["fours"] - 2 * means["triples"]
    assert float(hsic(k, l)) == pytest.approx(expected)


def test_alignment_with_itself_with_noise_and_with_nothing():
    a = prepare_features(features(0))
    noisy = prepare_features(features(0) + 0.5 * features(1))
    other = prepare_features(features(2, width=5))
    for measure in (cka, cknna, mutual_knn):
        assert measure(a, a) == pytest.approx(1, abs=1e-3)
        assert measure(a, a) > measure(a, noisy) > measure(a, other)


@MODELS.register_module()
class Bands(nn.Module):
    """A frozen network whose last map is the image in [-1, 1]."""

    def forward(self, images):
        assert images.min() >= -1 and images.max() <= 1
        return [images[:, :1], images]


def sample(number, latents, change=None, **fields):
    meta = dict(sample_idx=number) | ({} if change is None else {"change": change})
    return CodecDataSample(metainfo=meta, latents=latents, **fields).to_dict()


def test_changed_latents_are_compared_with_unchanged_features():
    metric = AlignmentMetric(frozen=dict(type="hook.Bands"), topk=5)
    means = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) * 255
    maps = means[:, :, None, None].expand(-1, -1, 4, 4)
    for change, latents in (
        (None, maps / 127.5 - 1),
        ("rotated", maps[:, :, :2, :2] / 127.5 - 1),  # of another size
        ("noise0.2", torch.randn(40, 6, 4, 4)),
    ):
        order = reversed(range(40)) if change else range(40)
        metric.process(
            {}, [sample(i, latents[i], change, image=maps[i].to(torch.uint8)) for i in order]
        )
    scores = metric.compute_metrics(metric.results)
    assert scores["images"] == 40
    assert scores["cknna"] > 0.9 and scores["cknna_rotated"] > 0.9
    assert scores["cknna_permuted"] < 0.5 and scores["cknna_noise0.2"] < 0.5


def test_invalid_positions_do_not_count():
    metric = AlignmentMetric(topk=3)
    rows = torch.randn(20, 6)
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[4:] = False
    for number, row in enumerate(rows):
        latents = row[:, None, None].repeat(1, 2, 2)
        latents[:, 1] = torch.nan
        metric.process({}, [sample(number, latents, features=row, valid_mask=valid)])
    assert metric.compute_metrics(metric.results)["cknna"] == pytest.approx(1, abs=1e-3)


def test_nodata_values_do_not_reach_the_frozen_network():
    network = dict(type="hook.FrozenBackbone", weights=None, levels=(1,))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    valid = torch.ones(64, 64, dtype=torch.bool)
    valid[:, ::9] = False
    found = []
    for nodata in (-9999.0, torch.nan, 0.0):
        torch.manual_seed(0)
        metric = AlignmentMetric(network)
        image = images[0].masked_fill(~valid, nodata)
        metric.process({}, [sample(0, torch.ones(2, 8, 8), image=image, valid_mask=valid)])
        found.append(metric.results[0][3])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_what_cannot_be_compared_is_refused():
    metric = AlignmentMetric()
    with pytest.raises(ConfigError, match="no features to compare"):
        metric.process({}, [sample(0, torch.zeros(4, 2, 2), image=torch.zeros(3, 8, 8))])
    metric.process({}, [sample(0, torch.zeros(4, 2, 2), features=torch.zeros(4))])
    with pytest.raises(DataError, match="too few images"):
        metric.compute_metrics(metric.results)
