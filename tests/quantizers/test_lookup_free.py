"""Lookup-free quantization: bits, factors and entropies."""

import math

import pytest
import torch
from torch.nn import functional as F

from hook.quantizers import LookupFreeQuantizer


def test_the_entropies_are_those_of_a_softmax_over_all_codes():
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 9
    quantizer = LookupFreeQuantizer(7, temperature=0.3)
    codes = quantizer.decode(torch.arange(128)[None])[0].double()
    log_p = F.log_softmax(2 * rows @ codes.T / 0.3, dim=-1)
    sample, batch = quantizer.entropies(rows)
    mean = log_p.exp().mean(dim=0)
    assert sample.item() == pytest.approx(-(log_p.exp() * log_p).sum(dim=-1).mean().item())
    assert batch.item() == pytest.approx(-(mean * (mean + 1e-5).log()).sum().item())


def test_groups_of_bits_cannot_have_less_entropy_than_all_codes():
    z = torch.randn(2, 40, 6)
    z[..., 3:] = z[..., :3]  # dependent bits: half the entropy
    whole = LookupFreeQuantizer(6)(z).terms["batch_entropy"]
    groups = LookupFreeQuantizer(6, entropy_bits=(3, 3))(z).terms["batch_entropy"]
    assert whole < groups < 6 * math.log(2)
    torch.testing.assert_close(groups, 2 * whole, rtol=0.01, atol=0)


def test_the_lowest_bit_is_channel_0_and_zero_is_negative():
    z = torch.tensor([[[0.5, 0.0, -1.0, 2.0]]])
    assert LookupFreeQuantizer(4)(z).indices.item() == 0b1001
    assert LookupFreeQuantizer(4, factors=(1, 3))(z).indices.tolist() == [[[1, 0b100]]]


def test_many_bits_need_factors_and_groups():
    with pytest.raises(ValueError, match="entropy_bits"):
        LookupFreeQuantizer(36, factors=(18, 18))
    quantizer = LookupFreeQuantizer(36, factors=(18, 18), entropy_bits=(18, 18))
    z = torch.randn(2, 64, 36)
    result = quantizer(z)
    assert torch.equal(quantizer.decode(result.indices), result.latents)
    assert quantizer.bits_per_token == 36
    with pytest.raises(ValueError, match="add up to 18"):
        LookupFreeQuantizer(18, factors=(6, 6))
