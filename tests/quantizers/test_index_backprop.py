"""Index backpropagation."""

import torch
from torch.nn import functional as F

from hook.quantizers import IndexBackpropQuantizer, base


def test_the_gradient_is_that_of_soft_one_hot_codes():
    quantizer = IndexBackpropQuantizer(11, 4, entropy_weight=None).double()
    z = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(2, 6, 4, dtype=torch.float64)
    table = quantizer.codebook
    p = (z @ table.T).softmax(dim=-1)
    hard = F.one_hot(p.argmax(dim=-1), 11)
    expected = (hard + p - p.detach()) @ table
    result = quantizer(z)
    torch.testing.assert_close(result.latents, expected)
    ours = torch.autograd.grad((result.latents * probe).sum(), (z, table))
    torch.testing.assert_close(ours, torch.autograd.grad((expected * probe).sum(), (z, table)))
    assert ours[1].any(dim=-1).all()  # each row learns


def test_chunks_change_nothing(monkeypatch):
    quantizer = IndexBackpropQuantizer(16, 4).double()
    z = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)

    def outcome():
        result = quantizer(z)
        total = sum(result.losses.values()) + result.latents.square().sum()
        return result.indices, total, torch.autograd.grad(total, (z, quantizer.codebook))

    expected = outcome()
    monkeypatch.setattr(base, "CHUNK", 80)  # five positions
    torch.testing.assert_close(outcome(), expected)


def test_rows_start_small_or_as_the_official_ones():
    assert 0.9 < IndexBackpropQuantizer(64, 256).codebook.std() * 16 < 1.1
    assert 0.9 < IndexBackpropQuantizer(64, 256, init_std=1.0).codebook.std() < 1.1


def test_encoding_leaves_the_entropy_out():
    quantizer = IndexBackpropQuantizer(16, 4).eval()
    with torch.no_grad():
        assert "loss_entropy" not in quantizer(torch.randn(1, 5, 4)).losses
