"""Quality of decoded images, against analytic values and other libraries."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from hook.errors import ConfigError, DataError
from hook.evaluation.boundary import boundary_scores
from hook.evaluation.reconstruction import measure_reconstruction
from hook.evaluation.reconstruction_metric import ReconstructionMetric
from hook.structures import CodecDataSample


def image(bands=3, size=(48, 64)):
    """Smooth fields with edges, in [200, 1800]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, bands, 6, 8, generator=generator) * 1600 + 200
    return torch.nn.functional.interpolate(coarse, size, mode="nearest")[0]


def evaluate(*pairs, valid=None, meta=None, data_range=2000):
    metric = ReconstructionMetric(data_range)
    metric.dataset_meta = meta
    for original, decoded in pairs:
        sample = CodecDataSample(image=original, reconstruction=decoded)
        if valid is not None:
            sample.valid_mask = valid
        metric.process({}, [sample.to_dict()])
    return metric.compute_metrics(metric.results)


def test_an_identity_is_perfect():
    scores = evaluate((image(), image()))
    assert scores["PSNR"] == scores["PSNR_pooled"] == math.inf
    assert scores["SSIM"] == 1 and scores["EdgeF1"] == 100
    assert scores["SAM"] == scores["ERGAS"] == 0


def test_noise_gives_the_analytic_psnr():
    original = image(4, (200, 200))
    noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(1))
    scores = evaluate((original, original + 20 * noise), meta={"bands": ["b", "g", "r", "n"]})
    assert scores["PSNR"] == pytest.approx(20 * math.log10(2000 / 20), abs=0.05)
    assert scores["PSNR.n"] == pytest.approx(40, abs=0.1)
    mean = original.mean(dim=(1, 2))
    ergas = 100 * (400 / mean.square()).mean().sqrt().item()
    assert scores["ERGAS"] == pytest.approx(ergas, rel=0.01)


def test_an_empty_band_has_no_relative_error():
    original = torch.cat([image(2), torch.zeros(1, 48, 64)])
    rest = evaluate((original[:2], original[:2] + 20))["ERGAS"]
    assert evaluate((original, original + 20))["ERGAS"] == pytest.approx(rest)


def test_each_band_has_its_range():
    original = image(2)
    decoded = original + torch.tensor([10.0, 30.0])[:, None, None]
    scores = evaluate((original, decoded), data_range=[(0, 1000), (500, 3500)])
    assert scores["PSNR"] == pytest.approx(40, abs=1e-3)
    assert scores["PSNR.1"] == scores["PSNR.2"] == pytest.approx(40, abs=1e-3)


def test_a_factor_per_pixel_leaves_the_spectral_angle():
    original = image(5)
    factor = torch.rand(original.shape[1:], generator=torch.Generator().manual_seed(2)) + 0.5
    assert evaluate((original, original * factor))["SAM"] == pytest.approx(0, abs=1e-4)
    turned = torch.stack([original[0], torch.zeros_like(original[0])])
    assert evaluate((turned, turned.flip(0)))["SAM"] == pytest.approx(90, abs=1e-3)


def test_ssim_is_that_of_scikit_image_away_from_the_border():
    original = image(1)
    decoded = original + 100 * torch.randn(
        original.shape, generator=torch.Generator().manual_seed(3)
    )
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2000)
    _, expected = structural_similarity(
        original[0].numpy(), decoded[0].numpy(), full=True, **options
    )
    inner = torch.zeros(original.shape[1:], dtype=torch.bool)
    inner[5:-5, 5:-5] = True
    ours = evaluate((original, decoded), valid=inner)["SSIM"]  # whose windows have all pixels
    assert ours == pytest.approx(expected[10:-10, 10:-10].mean(), abs=1e-4)


def test_edges_that_vanish_or_move_are_missed():
    original = torch.zeros(1, 40, 40)
    original[:, :, 20:] = 1000
    assert evaluate((original, torch.roll(original, 1, dims=2)))["EdgeF1"] > 60  # within one pixel
    assert evaluate((original, torch.full_like(original, 500)))["EdgeF1"] == 0
    assert "EdgeF1" not in evaluate((torch.zeros(1, 40, 40), torch.zeros(1, 40, 40)))


def test_scattered_holes_leave_the_edges_beside_them(rng):
    stripes = np.zeros((256, 256))
    stripes[:, 32:] = 600
    stripes[:, 128:] = 1200
    original = torch.from_numpy(stripes + rng.normal(0, 20, stripes.shape))[None]
    valid = torch.from_numpy(rng.random(stripes.shape) > 0.03)
    counts = [measure_reconstruction(original, original, 2000, v).edges[3] for v in (None, valid)]
    assert 0.6 * counts[0] < counts[1] <= counts[0] and counts[0] >= 2 * 240


def test_invalid_pixels_do_not_count():
    original = image()
    decoded = original.clone()
    decoded[:, :, 32:] = torch.nan
    original[:, :, 40:] = -9999
    valid = torch.ones(original.shape[1:], dtype=torch.bool)
    valid[:, 32:] = False
    scores = evaluate((original, decoded), valid=valid)
    assert scores["PSNR"] == math.inf and scores["SSIM"] == 1 and scores["EdgeF1"] == 100
    with pytest.raises(DataError, match="not finite"):
        evaluate((original, decoded))
    assert measure_reconstruction(original, decoded, 1, torch.zeros(48, 64)) is None
    with pytest.raises(DataError, match="no image has a valid pixel"):
        evaluate((original, decoded), valid=torch.zeros(48, 64, dtype=torch.bool))


def test_the_mean_over_images_and_the_pooled_psnr():
    original = image()
    scores = evaluate((original, original + 2), (original, original + 200))
    assert scores["PSNR"] == pytest.approx(40, abs=1e-3)
    assert scores["PSNR_pooled"] == pytest.approx(10 * np.log10(2000**2 / 20002), abs=1e-3)


def test_regions_are_measured_alone():
    original = image(2)
    region, other = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    region[6:30, 10:40] = True
    other[36:] = True
    decoded = original.clone()
    decoded[0][torch.from_numpy(region)] += 20  # of the range of 2,000
    found = measure_reconstruction(original, decoded, 2000, regions=[region, other, other & region])
    assert found.region_errors[:2] == pytest.approx([0.5e-4, 0]) and found.psnr > 43
    assert math.isnan(found.region_errors[2])
    # Edges of the first move away with the decoded image, those of the second stay.
    turned = original.clone()
    turned[:, 6:30, 10:40] = original[:, 6:30, 10:40].mean()
    edges = measure_reconstruction(original, turned, 2000, regions=[region, other]).region_edges
    f1 = boundary_scores(edges)["f1"]
    assert f1[1] == 1 and f1[0] < 0.9 and (edges[:, 3] > 0).all()


def test_wrong_ranges_and_sizes_are_refused():
    with pytest.raises(ConfigError, match="data_range"):
        evaluate((image(), image()), data_range=[(0, 1)] * 2)
    with pytest.raises(ConfigError, match="data_range"):
        evaluate((image(), image()), data_range=(5, 5))
    with pytest.raises(DataError, match="differ in size"):
        evaluate((image(), image()[:, :40]))
