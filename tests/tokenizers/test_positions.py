"""Learned positions of another image size."""

import pytest
import torch
from timm.layers import resample_abs_pos_embed

from hook.tokenizers.positions import fit_positions


@pytest.mark.parametrize(
    ("old", "new"),
    [((4, 4), (6, 6)), ((6, 6), (4, 4)), ((4, 4), (3, 5)), ((3, 6), (5, 10)), ((2, 3), (4, 6))],
)
def test_fitted_positions_equal_timms(old, new):
    positions = torch.randn(1, old[0] * old[1], 8)
    expected = resample_abs_pos_embed(positions, list(new), list(old), num_prefix_tokens=0)
    assert torch.allclose(fit_positions(positions, new), expected, atol=1e-6)


def test_positions_of_an_unknown_grid_are_not_fitted():
    assert fit_positions(torch.zeros(1, 11, 8), (4, 4)) is None
