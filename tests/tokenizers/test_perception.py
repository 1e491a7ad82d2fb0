import pytest
import torch
from timm.layers.attention import Attention
from timm.models import vision_transformer_sam as sam

from hook.tokenizers.perception import (
    PerceptionBlock,
    SelfAttention,
    window_merge,
    window_partition,
)


@pytest.mark.parametrize(("size", "window"), [((8, 8), 4), ((9, 9), 4), ((7, 10), 3)])
def test_windows_equal_timms(size, window):
    x = torch.randn(2, *size, 5)
    ours = window_partition(x, (window, window))
    theirs, padded = sam.window_partition(x, window)
    assert torch.equal(ours, theirs.flatten(1, 2))
    assert torch.equal(window_merge(ours, (window, window), size), x)
    assert torch.equal(sam.window_unpartition(theirs, window, size, padded), x)


def test_rectangular_windows_come_back():
    x = torch.randn(1, 5, 11, 3)
    windows = window_partition(x, (2, 4))
    assert windows.shape == (3 * 3, 8, 3)
    assert torch.equal(window_merge(windows, (2, 4), (5, 11)), x)


def test_attention_equals_timms():
    ours = SelfAttention(32, 4).eval()
    theirs = Attention(32, num_heads=4, qkv_bias=True).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 10, 32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_block_equals_timms_sam_block(size):
    """Same weights in timm's windowed block; its padding takes part as keys too."""
    ours = PerceptionBlock(32, 4, 4.0, (4, 4)).eval()
    theirs = sam.Block(32, 4, qkv_bias=True, window_size=4, norm_layer=torch.nn.LayerNorm).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *size, 32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_seeds_see_only_their_window_in_a_windowed_block():
    block = PerceptionBlock(16, 2, 2.0, (4, 4)).eval()
    x = torch.randn(1, 8, 8, 16)
    changed = x.clone()
    changed[:, :4, :4] += 1
    difference = (block(x) - block(changed)).abs().amax(dim=-1)[0]
    assert (difference[:4, :4] > 0).all()
    assert difference[4:].max() == 0
    assert difference[:, 4:].max() == 0
