import pytest
import torch
import torch.nn.functional as F

from hook.errors import ConfigError
from hook.models import SeedBackbone, SeedPyramid, TokenViT
from hook.models.pyramid import _Pool
from hook.registry import MODELS
from hook.tokenizers import ImageFacts, hook_tokenizer

WIDTHS = (4, 6, 8, 10)


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (1, 3)])
@pytest.mark.parametrize(("tokens", "seeds"), [(12, None), (12, 5), (None, 5)])
def test_levels_halve(size, tokens, seeds):
    pyramid = SeedPyramid(tokens, seeds, WIDTHS).eval()
    maps = [torch.rand(2, 12, *size)] * 4 if tokens else []
    maps += [torch.rand(2, 5, *size)] if seeds else []
    levels = pyramid(tuple(maps))
    for level, width, factor in zip(levels, WIDTHS, (1, 2, 4, 8), strict=True):
        assert level.shape == (2, width, -(-size[0] // factor), -(-size[1] // factor))


def test_without_the_seeds_a_level_is_a_projection_of_the_pooled_map():
    pyramid = SeedPyramid(12, None, WIDTHS).eval()
    maps = tuple(torch.rand(2, 12, 8, 8) for _ in range(4))
    pooled = F.adaptive_avg_pool2d(maps[2], 2)
    assert torch.allclose(pyramid(maps)[2], pyramid.join[2](pyramid.project[2](pooled)), atol=1e-6)


@pytest.mark.parametrize(("size", "k"), [((8, 8), 2), ((7, 10), 4), ((3, 5), 8)])
def test_pooling_has_the_gradient_of_pytorch_and_keeps_no_map(size, k):
    x = torch.rand(2, 3, *size, dtype=torch.double, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one), lambda one: one):
        pooled = _Pool.apply(x, k)
    expected = F.avg_pool2d(x, k, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(pooled, expected)
    weight = torch.rand_like(expected)
    gradients = [torch.autograd.grad((one * weight).sum(), x)[0] for one in (pooled, expected)]
    torch.testing.assert_close(*gradients)
    assert not saved


def test_wrong_inputs_say_what_is_missing():
    with pytest.raises(ConfigError, match="wrong number of maps"):
        SeedPyramid(12, 5, WIDTHS)([torch.rand(1, 12, 4, 4)] * 4)
    with pytest.raises(ConfigError, match="of different sizes"):
        SeedPyramid(12, 5, WIDTHS)([torch.rand(1, 12, 4, 4)] * 4 + [torch.rand(1, 5, 16, 16)])
    with pytest.raises(ConfigError, match="wrong length"):
        SeedPyramid(12, 5, (1, 2, 3))
    with pytest.raises(ConfigError, match="no input"):
        SeedPyramid(None, None, WIDTHS)


def backbone(**options):
    tokenizer = dict(
        type="hook.HookTokenizer", preset="fast", seed_dims=16, num_tokens=4, assign="token"
    )
    options = dict(embed_dims=12, depth=4, num_heads=2, out_indices=(0, 1, 2, 3)) | options
    return TokenViT(tokenizer=tokenizer, **options).eval()


def test_backbone_gives_maps_at_seeds_and_the_seeds():
    model = backbone(seed_skip=True)
    images = torch.rand(2, 3, 32, 40)
    maps = model(images)
    assert [m.shape for m in maps] == [(2, 12, 8, 10)] * 4 + [(2, 16, 8, 10)]
    seeds = model.tokenizer.perceive(images).features
    assert torch.equal(maps[-1], seeds.permute(0, 3, 1, 2))
    plain = backbone()
    plain.load_state_dict(model.state_dict())
    for a, b in zip(maps[:4], plain(images), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("preset", ["reference", "fast", "objects"])
def test_seeds_before_object_perception_can_skip_to_the_pyramid(preset, monkeypatch):
    monkeypatch.setattr(hook_tokenizer, "_PIXELS_AT_ONCE", 2 * 40 * 40)
    tokenizer = dict(type="hook.HookTokenizer", preset=preset, seed_dims=16, num_tokens=4)
    options = dict(embed_dims=12, depth=1, num_heads=2, out_indices=(0,))
    model = TokenViT(tokenizer | dict(img_size=40), seed_skip="stem", **options).eval()
    images = torch.rand(3, 3, 40, 40)
    with torch.no_grad():
        expected = model.tokenizer.stem(images)
        seeds = model.tokenizer.perceive(images)
        assert torch.allclose(model(images)[-1], expected, atol=1e-6)
        assert not torch.allclose(seeds.features.permute(0, 3, 1, 2), expected, atol=1e-2)
        assert torch.equal(seeds.take(torch.tensor([2])).stem[0], seeds.stem[2])
    with torch.enable_grad():  # not in chunks
        assert torch.allclose(model(images)[-1], expected, atol=1e-6)
    if preset == "reference":
        return
    valid = torch.ones(3, 40, 40, dtype=torch.bool)
    valid[0, :8] = False
    with torch.no_grad():
        skipped = model(images, facts=ImageFacts(valid))[-1]
        others = model(images.where(valid[:, None], 7.0), facts=ImageFacts(valid))[-1]
    assert skipped[0, :, :2].abs().sum() == 0 and skipped[0, :, 2:].abs().sum() > 0
    assert torch.equal(skipped, others)
    assert TokenViT(tokenizer, seed_skip=True, **options).tokenizer.keeps_stem is False


def test_gradients_of_a_dense_loss_reach_the_assignment():
    """The queries of the last step learn from where their tokens are put, not only from what."""
    model = backbone().train()
    assignments = []
    original = model.tokenizer.vectorize

    def keep(*args):
        output = original(*args)
        output.assignment.retain_grad()
        assignments.append(output.assignment)
        return output

    model.tokenizer.vectorize = keep
    model.tokenizer.forward = lambda images: keep(model.tokenizer.perceive(images), None)
    sum(m.square().sum() for m in model(torch.rand(1, 3, 16, 16))).backward()
    assert assignments[0].grad.abs().sum() > 0


def test_number_of_tokens_is_an_argument_of_forward():
    model = TokenViT(
        tokenizer=dict(type="hook.HookTokenizer", preset="fast", num_tokens=6),
        embed_dims=12,
        depth=1,
        num_heads=2,
    )
    assert model(torch.rand(1, 3, 16, 16), num_tokens=2).shape == (1, 2, 12)
    assert backbone(seed_skip=True)(torch.rand(1, 3, 16, 16), num_tokens=2)[0].shape[1] == 12


def test_skip_needs_seeds():
    with pytest.raises(ConfigError, match="seed_skip"):
        TokenViT(tokenizer=dict(type="hook.PatchEmbedTokenizer"), out_indices=(0,), seed_skip=True)
    with pytest.raises(ConfigError, match="'stem'"):
        backbone(seed_skip="seeds")


def test_seed_backbone_is_the_stem():
    tokenizer = dict(type="hook.HookTokenizer", preset="fast", seed_dims=16)
    model = MODELS.build(dict(type="hook.SeedBackbone", tokenizer=tokenizer)).eval()
    images = torch.rand(2, 3, 16, 24)
    (seeds,) = model(images)
    assert torch.equal(seeds, model.stem(images))
    assert seeds.shape == (2, 16, 4, 6)
    with pytest.raises(ConfigError, match="no stem"):
        SeedBackbone(dict(type="hook.PatchEmbedTokenizer"))
