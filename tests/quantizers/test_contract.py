"""What all quantizers have in common."""

import pytest
import torch

from hook import quantizers

QUANTIZERS = {
    "ibq": lambda: quantizers.IndexBackpropQuantizer(32, 6),
    "fsq": lambda: quantizers.FiniteScalarQuantizer([8, 5, 2]),
    "fsq_groups": lambda: quantizers.FiniteScalarQuantizer([4, 3], groups=3, embed_dims=7),
    "gaussian": lambda: quantizers.GaussianQuantizer(4, reduction="mean"),
    "vq": lambda: quantizers.VectorQuantizer(16, 5, restart=False),
    "vq_restart": lambda: quantizers.VectorQuantizer(16, 5),
    "vq_gradient": lambda: quantizers.VectorQuantizer(16, 5, ema=False),
    "rq": lambda: quantizers.ResidualQuantizer(16, 5, depth=3),
    "rq_own": lambda: quantizers.ResidualQuantizer(16, 5, depth=2, shared=False, restart=False),
    "lfq": lambda: quantizers.LookupFreeQuantizer(6),
    "lfq_factors": lambda: quantizers.LookupFreeQuantizer(6, factors=(2, 4)),
}


@pytest.fixture(params=QUANTIZERS)
def quantizer(request):
    torch.manual_seed(0)
    return QUANTIZERS[request.param]()


def latents_for(quantizer, *size):
    return torch.randn(*size, quantizer.in_channels, generator=torch.Generator().manual_seed(1))


def cost(result, latents):
    """The sum of the losses, zero for a quantizer without."""
    return sum(result.losses.values(), start=0 * latents.sum())


def test_shapes_losses_and_codes(quantizer):
    z = latents_for(quantizer, 2, 12).requires_grad_()
    result = quantizer(z, grid=(3, 4))
    assert result.latents.shape == (2, 12, quantizer.embed_dims)
    assert result.grid == (3, 4)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in result.losses.values())
    (result.latents.sum() + sum(result.losses.values())).backward()
    assert z.grad.isfinite().all() and z.grad.any()
    if quantizer.codebook_size is None:
        assert result.indices is quantizer.depth is quantizer.bits_per_token is None
        with pytest.raises(ValueError, match="no codes"):
            quantizer.decode(torch.zeros(2, 12, dtype=torch.long))
        return
    shape = (2, 12) if quantizer.indices_kind == "single" else (2, 12, quantizer.depth)
    assert result.indices.shape == shape and result.indices.dtype == torch.int64
    assert 0 <= result.indices.min() and result.indices.max() < quantizer.codebook_size
    assert quantizer.bits_per_token == pytest.approx(
        sum(torch.tensor(size).log2().item() for size in quantizer.codebook_sizes)
    )


def test_codes_decode_to_the_latents_of_the_decoder(quantizer):
    if quantizer.codebook_size is None:
        pytest.skip("no codes")
    z = latents_for(quantizer.eval(), 2, 12)
    result = quantizer(z, grid=(3, 4))
    assert torch.equal(quantizer.decode(result.indices, grid=(3, 4)), result.latents)
    with pytest.raises(ValueError, match="codes must be from 0"):
        quantizer.decode(result.indices + quantizer.codebook_size)


def test_invalid_positions_cost_nothing_and_change_nothing(quantizer):
    """A batch with invalid positions equals the batch without them, whatever stands there."""
    z = latents_for(quantizer, 3, 12)
    z[1, 3:] = 1000
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[1, 3:], valid[2] = False, False
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    outcomes = []
    for latents, mask in (
        (z, valid),
        (torch.cat([z[:1].flatten(0, 1), z[1, :3]])[None], None),
    ):
        quantizer.load_state_dict(state)
        torch.manual_seed(5)
        latents = latents.clone().requires_grad_()
        result = quantizer(latents, mask)
        cost(result, latents).backward()
        gradient = latents.grad if mask is None else latents.grad[mask][None]
        assert mask is None or not latents.grad[~mask].any()
        after = {key: value.clone() for key, value in quantizer.state_dict().items()}
        outcomes.append((result.losses, gradient, after))
    torch.testing.assert_close(*outcomes)


def test_a_batch_without_valid_positions_costs_nothing(quantizer):
    z = latents_for(quantizer, 2, 5).requires_grad_()
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    result = quantizer(z, torch.zeros(2, 5, dtype=torch.bool))
    assert cost(result, z).item() == 0
    cost(result, z).backward()
    assert not z.grad.any()
    torch.testing.assert_close(quantizer.state_dict(), state, rtol=0, atol=0)


def test_autocast_and_half_precision_compute_in_float32(quantizer):
    z = latents_for(quantizer.eval(), 2, 12).to(torch.bfloat16)
    torch.manual_seed(2)
    expected = quantizer(z.float())
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(z)
    assert result.latents.dtype == torch.bfloat16
    torch.testing.assert_close(result.losses, expected.losses)
    torch.testing.assert_close(result.indices, expected.indices)


def test_wrong_shapes_are_refused(quantizer):
    width = quantizer.in_channels
    with pytest.raises(ValueError, match=rf"\(B, N, {width}\), found \(2, 5, {width + 1}\)"):
        quantizer(torch.zeros(2, 5, width + 1))
    with pytest.raises(ValueError, match=r"valid must be \(2, 5\)"):
        quantizer(torch.zeros(2, 5, width), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="grid"):
        quantizer(torch.zeros(2, 5, width), grid=(2, 2))
