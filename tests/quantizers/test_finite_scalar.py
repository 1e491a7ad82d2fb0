"""Finite scalar quantization."""

import pytest
import torch

from hook.quantizers import FiniteScalarQuantizer


@pytest.mark.parametrize("levels", [[2, 3], [5, 4, 7]])
def test_every_code_is_reached_and_decodes_to_its_own_values(levels):
    quantizer = FiniteScalarQuantizer(levels)
    z = torch.randn(1, 20000, len(levels)) * 2
    result = quantizer(z)
    size = quantizer.codebook_size
    assert torch.equal(result.indices.unique(), torch.arange(size))
    values = quantizer.decode(torch.arange(size)[None])[0]
    assert len(values.unique(dim=0)) == size
    assert values.abs().max() == 1
    again = quantizer(values.atanh().clamp(-9, 9)[None]).indices[0]
    if all(level % 2 for level in levels):  # even levels are shifted by half a step
        assert torch.equal(again, torch.arange(size))


def test_groups_are_the_same_quantizer_on_parts():
    whole = FiniteScalarQuantizer([4, 5], groups=3)
    part = FiniteScalarQuantizer([4, 5])
    z = torch.randn(2, 7, 6)
    expected = torch.stack([part(z[..., i : i + 2]).indices for i in (0, 2, 4)], dim=-1)
    assert torch.equal(whole(z).indices, expected)
    assert whole.indices_kind == "product" and whole.depth == 3


def test_projections_only_where_widths_differ():
    assert not list(FiniteScalarQuantizer([4, 4], embed_dims=2).parameters())
    quantizer = FiniteScalarQuantizer([4, 4], groups=2, embed_dims=5)
    assert quantizer.project_in.weight.shape == (4, 5)
    with pytest.raises(ValueError, match="at least 2 levels"):
        FiniteScalarQuantizer([4, 1])
