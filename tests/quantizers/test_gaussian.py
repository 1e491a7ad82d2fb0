"""Gaussian latents."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from hook.quantizers import GaussianQuantizer


def test_divergence_is_that_of_torch():
    moments = torch.randn(2, 5, 6)
    mean, logvar = moments.chunk(2, dim=-1)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0))
    summed = GaussianQuantizer(3, kl_weight=0.5)(moments)
    torch.testing.assert_close(summed.terms["kl"], expected.sum() / 2)
    torch.testing.assert_close(summed.losses["loss_kl"], expected.sum() / 4)
    averaged = GaussianQuantizer(3, reduction="mean")(moments).terms["kl"]
    torch.testing.assert_close(averaged, expected.mean())


def test_training_samples_and_evaluation_takes_the_mean():
    moments = torch.cat([torch.full((1, 9999, 1), 3.0), torch.full((1, 9999, 1), -2.0)], dim=-1)
    quantizer = GaussianQuantizer(1)
    drawn = quantizer(moments).latents
    assert drawn.mean().item() == pytest.approx(3, abs=0.02)
    assert drawn.var().log().item() == pytest.approx(-2, abs=0.1)
    assert (quantizer.eval()(moments).latents == 3).all()
    assert GaussianQuantizer(1, sample_eval=True).eval()(moments).latents.std() > 0.3


def test_unlimited_variances_and_unknown_reductions():
    moments = torch.tensor([[[0.0, 40.0]]])
    assert GaussianQuantizer(1).moments(moments)[1].item() == 20
    assert GaussianQuantizer(1, logvar_range=None).moments(moments)[1].item() == 40
    with pytest.raises(ValueError, match="reduction must be"):
        GaussianQuantizer(1, reduction="none")
