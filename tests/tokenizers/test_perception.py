import pytest
import torch
import torch.nn.functional as F
from timm.models import vision_transformer_sam as sam
from timm.models.vision_transformer import Attention

from hook.tokenizers import perception
from hook.tokenizers.perception import (
    FeedForward,
    LatentMixing,
    NearFarAttention,
    PerceptionBlock,
    SeedAttention,
    WindowMixing,
    attend,
    dot_product_attention,
    key_bias,
    window_merge,
    window_partition,
)
from hook.tokenizers.positions import Rotary2d, resize_positions
from hook.tokenizers.stem import ConvNormAct


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
    theirs = Attention(32, num_heads=4, qkv_bias=True).eval()
    x = torch.randn(2, 10, 32)
    ours = theirs.proj(attend(theirs.qkv(x), 4))
    assert torch.allclose(ours, theirs(x), atol=1e-6)


def test_attention_of_all_seeds_equals_timms():
    ours = SeedAttention(32, 4).eval()
    theirs = Attention(32, num_heads=4, qkv_bias=True).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 5, 32)
    assert torch.allclose(ours(x).flatten(1, 2), theirs(x.flatten(1, 2)), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_block_equals_timms_sam_block(size):
    """Same weights in timm's windowed block; its padding takes part as keys too."""
    ours = PerceptionBlock(32, SeedAttention(32, 4, (4, 4), pads_are_keys=True), 4.0).eval()
    theirs = sam.Block(32, 4, qkv_bias=True, window_size=4, norm_layer=torch.nn.LayerNorm).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *size, 32)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_seeds_see_only_their_window_in_a_windowed_block():
    block = PerceptionBlock(16, SeedAttention(16, 2, (4, 4)), 2.0).eval()
    x = torch.randn(1, 8, 8, 16)
    changed = x.clone()
    changed[:, :4, :4] += 1
    difference = (block(x) - block(changed)).abs().amax(dim=-1)[0]
    assert (difference[:4, :4] > 0).all()
    assert difference[4:].max() == 0
    assert difference[:, 4:].max() == 0


def test_padding_of_windows_is_no_key_unless_asked():
    """A map of one seed more than a window: the last seeds attend to themselves alone."""
    attention = SeedAttention(16, 2, (4, 4)).eval()
    x = torch.randn(1, 4, 5, 16)
    alone = attention(x[:, :, 4:])
    assert torch.allclose(attention(x)[:, :, 4:], alone, atol=1e-6)
    attention.mixing.pads_are_keys = True
    assert not torch.allclose(attention(x)[:, :, 4:], alone, atol=1e-3)


def test_rotary_products_depend_on_the_offset_only():
    rotary = Rotary2d(8)
    query, key = torch.randn(1, 8), torch.randn(1, 8)

    def product(query_at, key_at):
        turned = [
            rotary.rotate(x, rotary.angles(torch.tensor([row]), torch.tensor([column])))
            for x, (row, column) in ((query, query_at), (key, key_at))
        ]
        return (turned[0] * turned[1]).sum()

    here = product((0.0, 0.0), (12.0, -8.0))
    there = product((100.0, 40.0), (112.0, 32.0))
    assert torch.isclose(here, there, atol=1e-4)
    assert not torch.isclose(here, product((0.0, 0.0), (-8.0, 12.0)), atol=1e-3)


def test_rotary_turns_by_the_stated_angle():
    """A wavelength along the rows brings a feature back, half of one turns it round."""
    rotary = Rotary2d(4, wavelengths=(16.0, 16.0))
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])  # rows turn (1, 3), columns (2, 4)
    zero = torch.zeros(1)
    whole = rotary.rotate(x, rotary.angles(torch.tensor([16.0]), zero))
    half = rotary.rotate(x, rotary.angles(torch.tensor([8.0]), zero))
    assert torch.allclose(whole, x, atol=1e-5)
    assert torch.allclose(half, torch.tensor([[-1.0, 2.0, -3.0, 4.0]]), atol=1e-5)


def test_rotary_refuses_heads_it_cannot_halve_twice():
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        Rotary2d(6)


def test_a_pixel_twice_as_large_is_two_pixels():
    mixing = WindowMixing(2, (4, 4), rotary=True, stride=4, head_dims=8)
    coarse = WindowMixing(2, (4, 4), rotary=True, stride=8, head_dims=8)
    qkv, size = torch.randn(8, 16, 48), (8, 8)  # two images of four windows
    assert torch.allclose(mixing(qkv, size, scale=2.0), coarse(qkv, size), atol=1e-6)
    each = mixing(qkv, size, scale=torch.tensor([1.0, 2.0]))
    assert torch.allclose(each[:4], mixing(qkv, size)[:4], atol=1e-6)
    assert torch.allclose(each[4:], coarse(qkv, size)[4:], atol=1e-6)
    assert not torch.allclose(mixing(qkv, size), coarse(qkv, size), atol=1e-3)


def test_latents_equal_torchs_attention():
    module = LatentMixing(16, 2, 5).eval()
    qkv = torch.randn(2, 12, 48)
    query, key, value = qkv.chunk(3, dim=-1)

    def torchs(query, key, value):
        """PyTorch's multi-head attention with identity projections."""
        eye = torch.eye(16)
        return F.multi_head_attention_forward(
            *(t.transpose(0, 1) for t in (query, key, value)),
            embed_dim_to_check=16,
            num_heads=2,
            in_proj_weight=torch.cat([eye, eye, eye]),
            in_proj_bias=None,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=eye,
            out_proj_bias=None,
            need_weights=False,
        )[0].transpose(0, 1)

    read = torchs(module.latents.expand(2, -1, -1), key, value)
    latent_key, latent_value = module.key_value(module.norm(read)).chunk(2, dim=-1)
    expected = torchs(query, latent_key, latent_value)
    assert torch.allclose(module(qkv), expected, atol=1e-5)


def test_latents_do_not_read_what_is_not_valid():
    module = LatentMixing(16, 2, 5).eval()
    x = torch.randn(1, 24, 48)
    valid = torch.arange(24)[None] < 12
    assert torch.allclose(module(x, valid)[:, :12], module(x[:, :12]), atol=1e-6)


def test_positions_are_resized_as_an_image_is():
    """A ramp stays a ramp in the middle; the same grid is the same tensor."""
    ramp = torch.linspace(0, 1, 8).repeat(8, 1).reshape(1, 64, 1)
    assert resize_positions(ramp, (8, 8), (8, 8)) is ramp
    larger = resize_positions(ramp, (8, 8), (16, 16)).reshape(16, 16)
    steps = larger[:, 4:12].diff(dim=1)
    assert torch.allclose(steps, torch.full_like(steps, 1 / 14), atol=2e-3)
    assert torch.allclose(larger, larger[:1].expand(16, -1), atol=1e-5)


def test_near_and_far_heads_stand_side_by_side_and_far_ones_reach_everywhere():
    both = NearFarAttention(16, 1, 2, 8, (4, 4), 5).eval()
    x = torch.randn(1, 8, 8, 16)
    windows, keys = both.near.partition(x)
    assert keys is None
    near = both.near.merge(both.near_proj(both.near(both.near_qkv(windows), (8, 8))), (8, 8))
    far = both.far_proj(both.far(both.far_qkv(x.flatten(1, 2)))).reshape_as(x)
    assert torch.allclose(both(x), near + far, atol=1e-6)
    changed = x.clone()
    changed[:, 0, 0] += 1
    moved = (both(x) - both(changed)).abs().amax(dim=-1)[0]
    assert (moved > 0).all()
    assert moved[:4, :4].mean() > moved[4:, 4:].mean()


@pytest.mark.parametrize("module", [ConvNormAct(8), FeedForward(8, 2.0)])
def test_without_gradients_the_activation_works_in_place_with_the_same_result(module):
    module.eval()
    x = torch.randn(2, 8, 8, 8)
    kept = x.clone()
    with_graph = module(x)
    with torch.no_grad():
        assert torch.equal(module(x), with_graph)
    assert torch.equal(x, kept)


def test_fixed_batch_norm_moves_into_the_convolution():
    block = ConvNormAct(8).train()
    for _ in range(3):
        block(torch.randn(4, 8, 8, 8) * 2 + 1)
    torch.nn.init.uniform_(block.norm.weight, 0.5, 2)
    torch.nn.init.normal_(block.norm.bias)
    block.eval()
    x = torch.randn(2, 8, 8, 8)
    assert torch.allclose(block(x), x + F.gelu(block.norm(block.conv(x))), atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_the_gelu_computed_again_has_the_same_gradients(bias):
    module = FeedForward(6, 2.0, bias).double().train()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    module(x).square().sum().backward()
    found = [x.grad, *(p.grad for p in module.parameters())]
    hidden = F.linear(x, module.fc1.weight, module.fc1.bias)
    expected = F.linear(F.gelu(hidden), module.fc2.weight, module.fc2.bias).square().sum()
    wanted = torch.autograd.grad(expected, [x, *module.parameters()])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_the_gelu_is_kept_once():
    module, kept = FeedForward(8, 4.0).train(), set()
    x = torch.randn(2, 5, 8, requires_grad=True)

    def pack(tensor):
        kept.add((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x).sum()
    hidden_bytes = 2 * 5 * 32 * 4
    assert sum(size == hidden_bytes for _, size in kept) == 1


def test_the_gelu_computed_again_under_autocast():
    module = FeedForward(8, 2.0).train()
    x = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        module(x).float().square().sum().backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module(x).square().sum().backward()
    for low, parameter in zip(gradients, module.parameters(), strict=True):
        assert low.dtype == torch.float32
        assert torch.allclose(low, parameter.grad, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_with_gradients_under_autocast_is_that_of_single_precision(masked):
    parts = [torch.randn(2, 3, 5, 8).bfloat16().requires_grad_() for _ in range(3)]
    valid = torch.tensor([True, True, False, True, True])
    mask = key_bias(valid, torch.bfloat16).expand(2, 1, 5, 5) if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        low = dot_product_attention(*parts, mask)
    assert low.dtype == torch.bfloat16
    exact = [part.detach().double().requires_grad_() for part in parts]
    weights = exact[0] @ exact[1].mT / 8**0.5
    weights = weights.masked_fill(~valid, -torch.inf) if masked else weights
    high = weights.softmax(dim=-1) @ exact[2]
    for result in (low.double(), high):
        result.square().sum().backward()
    # Only the outputs and gradients are rounded, to 8 bits.
    assert torch.allclose(low.double(), high, rtol=2**-8, atol=1e-6)
    for part, true in zip(parts, exact, strict=True):
        assert torch.allclose(part.grad.double(), true.grad, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [8, None])
def test_a_few_rows_at_a_time_are_all_of_them(masked, window, monkeypatch):
    torch.manual_seed(0)
    pair = None if window is None else (window, window)
    block = PerceptionBlock(32, NearFarAttention(32, 1, 2, 16, pair, 4), 2.0, bias=False)
    x = torch.randn(2, 37, 29, 32)
    valid = torch.rand(2, 37, 29) > 0.3 if masked else None
    expected = block(x, valid).detach()
    monkeypatch.setattr(perception, "_SEEDS_AT_ONCE", 100)
    given = x.clone()
    with torch.no_grad():
        assert perception.rows_at_once(x, (8, 8)) == 8 and perception.rows_at_once(x) == 1
        assert perception.rows_at_once(x, None) is None
        found = block(x, valid)
    assert perception.rows_at_once(x) is None  # where gradients are asked for
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(x, given)
