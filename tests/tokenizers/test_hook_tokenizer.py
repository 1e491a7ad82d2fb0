import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F

from hook.tokenizers import (
    HookTokenizer,
    ImageFacts,
    ObjectVectorization,
    TokenizerOutput,
    token_map,
)
from hook.tokenizers.assignment import diffuse_assignment, explained_variance


def small(**options):
    options = dict(img_size=32, seed_dims=32, embed_dims=48) | options
    return HookTokenizer(**options).eval()


PRESETS = pytest.mark.parametrize("preset", ["reference", "fast"])


def test_reference_preset_has_the_papers_sizes():
    tokenizer = HookTokenizer()
    assert tokenizer.num_tokens == 6
    assert tokenizer.vectorization.queries.shape == (6, 768)
    assert tokenizer.stem.project.out_channels == 512
    assert tokenizer.pos_embed.shape == (1, 56 * 56, 512)
    assert tokenizer.perception.blocks[0].attn.mixing.window == (28, 28)
    assert tokenizer.perception.blocks[1].attn.mixing.window is None


@pytest.mark.parametrize("bands", [1, 3, 8])
@pytest.mark.parametrize("size", [32, 36, (24, 40), 30])
@pytest.mark.parametrize("cls_token", [False, True])
def test_shapes(bands, size, cls_token):
    tokenizer = small(in_channels=bands, img_size=size, num_tokens=5, with_cls_token=cls_token)
    h, w = (size, size) if isinstance(size, int) else size
    output = tokenizer(torch.rand(2, bands, h, w))
    assert isinstance(output, TokenizerOutput)
    assert output.tokens.shape == (2, 5 + cls_token, 48)
    assert output.assignment.shape == (2, 5, h // 4, w // 4)
    # Attention over seeds is a distribution for each token.
    assert torch.allclose(output.assignment.sum((2, 3)), torch.ones(2, 5), atol=1e-5)


@PRESETS
def test_class_token_stands_in_front_and_changes_nothing_else(preset):
    plain, with_cls = small(preset=preset), small(preset=preset, with_cls_token=True)
    with_cls.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(with_cls.cls_token)
    image = torch.rand(2, 3, 32, 32)
    a, b = plain(image), with_cls(image)
    assert torch.equal(b.tokens[:, 1:], a.tokens)
    assert torch.equal(b.tokens[:, 0], with_cls.cls_token[0].expand(2, -1))


def test_vectorization_equals_torchs_attention():
    """The cross-attention against torch's; identity as values shows its weights."""
    module = ObjectVectorization(seed_dims=32, embed_dims=48, num_tokens=6).eval()
    seeds = torch.randn(2, 50, 32)
    query = module.to_query(module.norm_queries(module.queries)).expand(2, -1, -1)
    key, value = module.to_key_value(module.norm_seeds(seeds)).chunk(2, dim=-1)
    tokens, attention = module(seeds)
    weights = F.scaled_dot_product_attention(query, key, torch.eye(50).expand(2, -1, -1))
    assert torch.allclose(attention, weights, atol=1e-6)
    read = F.scaled_dot_product_attention(query, key, value)
    residual = module.proj(read) + module.queries
    assert torch.allclose(tokens, residual + module.feed_forward(residual), atol=1e-5)


@PRESETS
def test_gradients_reach_every_parameter(preset):
    tokenizer = small(preset=preset, with_cls_token=True).train()
    output = tokenizer(torch.rand(2, 3, 32, 32))
    (output.tokens.square().sum() + output.assignment.square().sum()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert next(tokenizer.stem.parameters()).grad.abs().max() > 0


@PRESETS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [32, 36])
def test_dtypes_agree_with_float64(preset, dtype, size, tolerances):
    tokenizer = small(preset=preset, img_size=size)
    image = torch.rand(2, 3, size, size)
    exact = tokenizer.double()(image.double())
    assert exact.tokens.dtype == torch.float64
    output = tokenizer.to(dtype)(image.to(dtype))
    assert output.tokens.dtype == dtype
    absolute, relative = tolerances[dtype]
    assert torch.allclose(output.tokens.double(), exact.tokens, atol=absolute, rtol=relative)
    error = (output.assignment.double() - exact.assignment).abs().max()
    assert error <= absolute * exact.assignment.max()


@pytest.mark.parametrize("preset", ["reference", "fast", "objects"])
def test_compiled_equals_eager(preset, compiles):
    tokenizer = small(preset=preset)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        eager = tokenizer(image)
        compiled = torch.compile(tokenizer)(image)
    assert torch.allclose(compiled.tokens, eager.tokens, atol=1e-5)
    assert torch.allclose(compiled.assignment, eager.assignment, atol=1e-6)


@PRESETS
def test_exported_equals_eager(preset):
    tokenizer = small(preset=preset, with_cls_token=True)
    image = torch.rand(2, 3, 32, 32)
    program = torch.export.export(
        tokenizer, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    batch = torch.rand(5, 3, 32, 32)
    exported, eager = program.module()(batch), tokenizer(batch)
    assert torch.allclose(exported.tokens, eager.tokens, atol=1e-5)
    assert torch.allclose(exported.assignment, eager.assignment, atol=1e-6)


@PRESETS
def test_constant_image_gives_finite_tokens(preset):
    output = small(preset=preset)(torch.zeros(1, 3, 32, 32))
    assert torch.isfinite(output.tokens).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(preset="none"), "unknown preset"),
        (dict(img_size=3), "at least 4 x 4"),
        (dict(num_tokens=0), "num_tokens must be at least 1"),
        (dict(seed_dims=30), "divisible"),
        (dict(assign="pixel"), "assign"),
        (dict(max_tokens=4), "max_tokens"),
        (dict(num_iterations=0), "num_iterations"),
        (dict(diffusion_steps=-1), "diffusion_steps"),
        (dict(diffusion_contrast=0.0), "diffusion_contrast"),
        (dict(band_dropout=1.0), "band_dropout"),
        (dict(num_latents=4), "'reference' does not support num_latents"),
        (dict(resolution=10.0), "'reference' does not support resolution"),
        (dict(perception_heads=(1, 2)), "must be a number"),
        (dict(preset="fast", perception_heads=4), "two numbers, near and far"),
    ],
)
def test_bad_options_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 4, 32, 32), "4 bands"), ((1, 3, 3, 32), "3 x 32")]
)
def test_images_it_cannot_take_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.rand(shape))


def test_scale_of_attention_follows_the_head():
    tokenizer = small(seed_dims=64)
    assert math.isclose(tokenizer.vectorization.scale, 32**-0.5)


def test_reference_takes_other_sizes_with_resized_positions():
    tokenizer = small()
    output = tokenizer(torch.rand(2, 3, 48, 40))
    assert output.assignment.shape == (2, 6, 12, 10)
    with torch.no_grad():
        tokenizer.pos_embed.fill_(0.5)  # resizing a constant changes nothing
        larger = small(img_size=(48, 40), perception_window=4)
        state = tokenizer.state_dict()
        larger.load_state_dict(state | {"pos_embed": torch.full_like(larger.pos_embed, 0.5)})
    image = torch.rand(1, 3, 48, 40)
    assert torch.allclose(tokenizer(image).tokens, larger(image).tokens, atol=1e-5)


def test_a_window_of_zero_lets_all_seeds_meet():
    assert small(perception_window=0).perception.blocks[0].attn.mixing.window is None
    assert small(perception_window=(2, 4)).perception.blocks[0].attn.mixing.window == (2, 4)


# ------------------------------------------------------------------------------- any size
ASSIGN = pytest.mark.parametrize("assign", ["seed", "token"])


@ASSIGN
@pytest.mark.parametrize(
    "size", [(64, 64), (48, 80), (96, 160), (50, 70), (33, 47), (4, 4), (1, 3)]
)
def test_one_set_of_weights_takes_any_size(assign, size):
    tokenizer = small(preset="fast", assign=assign)
    output = tokenizer(torch.rand(2, 3, *size))
    grid = -(-size[0] // 4), -(-size[1] // 4)
    assert output.tokens.shape == (2, 6, 48)
    assert output.assignment.shape == (2, 6, *grid)
    total = output.assignment.sum(dim=1 if assign == "token" else (2, 3))
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


@ASSIGN
@pytest.mark.parametrize("size", [(50, 70), (33, 47), (64, 32)])
@pytest.mark.parametrize("filling", [0.0, 1e4, float("nan")])
@pytest.mark.parametrize("diffusion_steps", [0, 9])
def test_padding_owns_nothing(assign, size, filling, diffusion_steps):
    """An image alone and in a larger batch, whatever the padding holds."""
    options = dict(assign=assign, num_iterations=2, diffusion_steps=diffusion_steps)
    tokenizer = small(preset="fast", **options)
    image = torch.randn(2, 3, *size)
    alone = tokenizer(image)
    padded = torch.full((2, 3, 96, 128), filling)
    padded[..., : size[0], : size[1]] = image
    valid = torch.zeros(2, 96, 128, dtype=torch.bool)
    valid[:, : size[0], : size[1]] = True
    batch = tokenizer(padded, facts=ImageFacts(valid))
    h, w = alone.assignment.shape[-2:]
    assert torch.allclose(batch.tokens, alone.tokens, atol=1e-5)
    assert torch.allclose(batch.assignment[..., :h, :w], alone.assignment, atol=1e-5)
    assert batch.assignment[..., h:, :].abs().sum() == 0
    assert batch.assignment[..., w:].abs().sum() == 0


def test_nan_marks_what_is_not_valid():
    tokenizer = small(preset="fast", nan_is_invalid=True)
    image = torch.randn(1, 3, 32, 32)
    valid = torch.rand(1, 32, 32) > 0.3
    marked = image.clone()
    marked[:, 1].masked_fill_(~valid, float("nan"))  # one band is enough
    expected = tokenizer(image, facts=ImageFacts(valid))
    assert torch.allclose(tokenizer(marked).tokens, expected.tokens, atol=1e-6)


def test_values_of_invalid_pixels_do_not_matter():
    tokenizer = small(preset="fast")
    image = torch.randn(1, 3, 32, 32)
    valid = torch.rand(1, 32, 32) > 0.5
    other = torch.where(valid[:, None], image, torch.randn(1, 3, 32, 32))
    assert torch.equal(
        tokenizer(image, facts=ImageFacts(valid)).tokens,
        tokenizer(other, facts=ImageFacts(valid)).tokens,
    )
    assert not torch.allclose(tokenizer(image).tokens, tokenizer(other).tokens, atol=1e-4)


def test_moving_by_whole_windows_changes_no_token():
    """Positions are relative within windows, so only the map moves."""
    tokenizer = small(preset="fast")
    image = torch.randn(1, 3, 40, 52)
    alone = tokenizer(image)
    canvas = torch.zeros(1, 3, 160, 160)
    valid = torch.zeros(1, 160, 160, dtype=torch.bool)
    canvas[..., 64:104, 32:84] = image  # a window is 8 seeds of 4 pixels
    valid[..., 64:104, 32:84] = True
    moved = tokenizer(canvas, facts=ImageFacts(valid))
    assert torch.allclose(moved.tokens, alone.tokens, atol=1e-5)
    assert torch.allclose(moved.assignment[..., 16:26, 8:21], alone.assignment, atol=1e-5)


@ASSIGN
@pytest.mark.parametrize("count", [1, 6])
def test_an_image_without_valid_pixels_gives_finite_tokens(assign, count):
    tokenizer = small(preset="fast", assign=assign).train()
    valid = torch.zeros(2, 30, 32, dtype=torch.bool)
    valid[1] = True
    output = tokenizer(
        torch.full((2, 3, 30, 32), float("nan")), num_tokens=count, facts=ImageFacts(valid * 0 > 0)
    )
    assert torch.isfinite(output.tokens).all()
    assert output.assignment.abs().sum() == 0
    mixed = tokenizer(torch.randn(2, 3, 30, 32), num_tokens=count, facts=ImageFacts(valid))
    mixed.tokens.square().sum().backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_resolution_scales_positions():
    tokenizer = small(preset="fast", resolution=10.0)
    image = torch.randn(2, 3, 32, 32)
    trained = tokenizer(image).tokens
    assert torch.equal(tokenizer(image, facts=ImageFacts(resolution=10.0)).tokens, trained)
    each = tokenizer(image, facts=ImageFacts(resolution=torch.tensor([10.0, 20.0]))).tokens
    assert torch.allclose(each[0], trained[0], atol=1e-6)
    assert torch.allclose(
        each[1], tokenizer(image, facts=ImageFacts(resolution=20.0)).tokens[1], atol=1e-6
    )
    assert not torch.allclose(each[1], trained[1], atol=1e-4)
    with pytest.raises(ValueError, match="build the tokenizer with resolution"):
        small(preset="fast")(image, facts=ImageFacts(resolution=20.0))


@pytest.mark.parametrize("name", ["valid", "resolution"])
def test_reference_refuses_what_the_paper_has_not(name):
    value = {"valid": torch.ones(1, 32, 32, dtype=torch.bool), "resolution": 1.0}[name]
    with pytest.raises(ValueError, match=f"does not support {name}"):
        small()(torch.rand(1, 3, 32, 32), facts=ImageFacts(**{name: value}))


def test_images_one_by_one_are_the_batch(monkeypatch):
    """Without gradients a CPU works on few images at a time; it must not show."""
    tokenizer = small(preset="fast")
    images = torch.randn(5, 3, 32, 48)
    calls = []
    tokenizer.stem.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    together = tokenizer(images)
    monkeypatch.setattr("hook.tokenizers.hook_tokenizer._PIXELS_AT_ONCE", 2 * 32 * 48)
    with torch.no_grad():
        apart = tokenizer(images)
    assert calls == [5, 2, 2, 1]
    assert torch.allclose(apart.tokens, together.tokens, atol=1e-5)
    assert torch.allclose(apart.assignment, together.assignment, atol=1e-6)


# ------------------------------------------------------------------------------- any number
@PRESETS
def test_fewer_tokens_are_the_first_queries(preset):
    tokenizer = small(preset=preset, num_tokens=4, max_tokens=8, assign="seed")
    image = torch.rand(1, 3, 32, 32)
    whole = tokenizer(image, num_tokens=8)
    assert tokenizer(image).tokens.shape[1] == 4
    fewer = tokenizer(image, num_tokens=3)
    assert torch.allclose(fewer.tokens, whole.tokens[:, :3], atol=1e-6)
    assert torch.allclose(fewer.assignment, whole.assignment[:, :3], atol=1e-6)


def test_fewer_tokens_share_all_seeds():
    tokenizer = small(preset="fast", num_tokens=8, assign="token")
    for count in (1, 3, 8):
        total = tokenizer(torch.rand(1, 3, 32, 32), num_tokens=count).assignment.sum(dim=1)
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


def test_nested_dropout_draws_every_number():
    torch.manual_seed(0)
    tokenizer = small(preset="fast", num_tokens=2, max_tokens=3).train()
    drawn = {tokenizer(torch.rand(2, 3, 8, 8)).tokens.shape[1] for _ in range(24)}
    assert drawn == {1, 2, 3}
    assert tokenizer.eval()(torch.rand(2, 3, 8, 8)).tokens.shape[1] == 2


@pytest.mark.parametrize("count", [0, 7])
def test_more_tokens_than_queries_are_refused(count):
    with pytest.raises(ValueError, match="from 1 to 6"):
        small()(torch.rand(1, 3, 32, 32), num_tokens=count)


@pytest.mark.parametrize("assign", ["seed", "token"])
def test_tokens_are_counted_until_the_seeds_are_explained(assign):
    tokenizer = small(preset="fast", num_tokens=5, assign=assign)
    seeds = tokenizer.perceive(torch.randn(3, 3, 64, 64))
    for share in (1e-6, 0.05, 0.2, 1.0):
        counts = tokenizer.count_tokens(seeds, share)
        for image, count in enumerate(counts.tolist()):
            reached = []
            for k in range(1, 6):
                picked = type(seeds)(seeds.features[image : image + 1], None)
                owners = token_map(tokenizer.vectorize(picked, k).assignment).flatten(1)
                reached.append(explained_variance(picked.features.flatten(1, 2), owners).item())
            expected = next((k for k in range(1, 5) if reached[k - 1] >= share), 5)
            assert count == expected, (share, reached)
    assert tokenizer.count_tokens(seeds, 1.0).tolist() == [5, 5, 5]


def test_a_plain_image_needs_one_token():
    tokenizer = small(preset="fast", num_tokens=5)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    valid[1] = False
    seeds = tokenizer.perceive(torch.rand(2, 3, 64, 64), facts=ImageFacts(valid))
    seeds.features[0] = 1.0
    assert tokenizer.count_tokens(seeds, 0.9).tolist() == [1, 1]


# ------------------------------------------------------------------------------- ownership
@pytest.mark.parametrize("masked", [False, True])
def test_seeds_choose_tokens_as_in_slot_attention(masked):
    """One attention step with the same weights, by scipy's softmax and numpy's weighted mean."""
    module = ObjectVectorization(32, 48, 5, assign="token").eval()
    seeds = torch.randn(2, 20, 32)
    valid = torch.rand(2, 20) > 0.3 if masked else torch.ones(2, 20, dtype=torch.bool)
    tokens, assignment = module(seeds, valid if masked else None)
    with torch.no_grad():
        query = module.to_query(module.norm_queries(module.queries)).numpy()
        key, value = (t.numpy() for t in module.to_key_value(module.norm_seeds(seeds)).chunk(2, -1))
    for image in range(2):
        keep = valid[image].numpy()
        weights = scipy.special.softmax(query @ key[image].T / math.sqrt(16), axis=0) * keep
        read = np.stack([np.average(value[image], axis=0, weights=row) for row in weights])
        residual = module.proj(torch.from_numpy(read)) + module.queries
        expected = residual + module.feed_forward(residual)
        assert torch.allclose(assignment[image], torch.from_numpy(weights), atol=1e-6)
        assert torch.allclose(tokens[image], expected, atol=1e-5)


def test_equal_queries_share_every_seed_equally():
    module = ObjectVectorization(32, 48, 4, assign="token").eval()
    with torch.no_grad():
        module.queries.copy_(module.queries[:1].expand(4, -1))
    _, assignment = module(torch.randn(1, 10, 32))
    assert torch.allclose(assignment, torch.full((1, 4, 10), 0.25), atol=1e-6)


def test_a_second_reading_starts_from_the_tokens():
    twice = ObjectVectorization(32, 48, 4, assign="token", num_iterations=2).eval()
    once = ObjectVectorization(32, 48, 4, assign="token").eval()
    once.load_state_dict(twice.state_dict())
    seeds = torch.randn(1, 10, 32)
    first, _ = once(seeds)
    with torch.no_grad():
        once.queries.copy_(first[0])
    assert torch.allclose(twice(seeds)[0], once(seeds)[0], atol=1e-5)


# ------------------------------------------------------------------------------- any bands
def test_band_dropout_sets_whole_bands_to_zero_while_training():
    torch.manual_seed(0)
    tokenizer = small(preset="fast", in_channels=8, band_dropout=0.5)
    seen = []
    tokenizer.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(200, 8, 8, 8) + 1
    tokenizer(images)
    assert torch.equal(seen[-1], images)
    tokenizer.train()(images)
    gone = (seen[-1] == 0).flatten(2)
    assert torch.equal(gone.all(dim=2), gone.any(dim=2))  # whole bands
    assert 0.45 < gone.all(dim=2).float().mean() < 0.55
    assert not gone.all(dim=2).all(dim=1).any()  # one stays


@PRESETS
@ASSIGN
def test_diffusion_of_a_tokenizer_is_that_of_its_assignment(preset, assign):
    options = dict(preset=preset, assign=assign)
    plain, diffused = small(**options), small(**options, diffusion_steps=5, diffusion_contrast=0.4)
    diffused.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    before, after = plain(images), diffused(images)
    assert torch.equal(before.tokens, after.tokens)
    colours = images.unflatten(-1, (8, 4)).unflatten(2, (8, 4)).mean(dim=(3, 5))
    expected = diffuse_assignment(before.assignment, colours, 5, 0.4)
    assert torch.allclose(after.assignment, expected, atol=1e-6)
    assert not torch.allclose(after.assignment, before.assignment, atol=1e-4)
    after.assignment.square().sum().backward()
    assert any(
        w.grad.abs().sum() > 0 for w in diffused.vectorization.parameters() if w.grad is not None
    )


@pytest.mark.parametrize("preset", ["fast", "objects"])
def test_sizes_are_widths_of_stem_and_seeds(preset):
    weights = []
    for size, seeds, stem in (("tiny", 32, 16), ("small", 64, 32), ("base", 128, 64)):
        tokenizer = HookTokenizer(preset=preset, img_size=32, embed_dims=48, size=size).eval()
        found = tokenizer.perceive(torch.rand(1, 3, 32, 32)).features
        assert found.shape == (1, 8, 8, seeds)
        assert tokenizer.stem.down1.conv.out_channels == stem
        weights.append(sum(weight.numel() for weight in tokenizer.parameters()))
    assert weights == sorted(weights)
    wider = HookTokenizer(preset=preset, img_size=32, embed_dims=48, size="tiny", seed_dims=40)
    assert wider.seed_dims == 40  # what is said stands
    with pytest.raises(ValueError, match=r"unknown size 'huge'.*'tiny', 'small', 'base'"):
        HookTokenizer(preset=preset, size="huge")
    with pytest.raises(ValueError, match="unknown size 'tiny' of preset 'reference'"):
        HookTokenizer(size="tiny")


@pytest.mark.parametrize("preset", ["reference", "fast", "objects"])
@pytest.mark.parametrize("whole", [True, False])
def test_perception_computed_again_gives_the_same_gradients_from_fewer_bytes(
    preset, whole, monkeypatch
):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    facts, known = None, {}
    if not whole:  # image by image, each with its own validity and resolution
        monkeypatch.setattr("hook.tokenizers.perception._SEEDS_AT_ONCE", 64)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        if preset != "reference":
            valid = torch.ones(3, 32, 32, dtype=torch.bool)
            valid[1, :12] = False
            facts, known = ImageFacts(valid, torch.tensor([1.0, 2.0, 0.5])), dict(resolution=1.0)
    gradients, kept = [], []
    for again in (False, 1, True):
        torch.manual_seed(0)
        tokenizer = HookTokenizer(
            preset=preset, img_size=32, seed_dims=32, embed_dims=48, with_cp=again, **known
        ).train()
        torch.manual_seed(1)  # of the number of tokens
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x
        ):
            loss = tokenizer(images, facts=facts).tokens.square().mean()
        loss.backward()
        gradients.append({k: v.grad for k, v in tokenizer.named_parameters() if v.grad is not None})
        kept.append(sum(saved))
    for others in gradients[1:]:
        assert others.keys() == gradients[0].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(others[name], gradient)
    assert kept[2] < kept[1] < kept[0]
    assert kept[2] < kept[0] * (0.95 if preset == "reference" else 0.7)  # its stem is wide
    with pytest.raises(ValueError, match="with_cp must be a bool or 0 to 2 blocks, got 3"):
        HookTokenizer(preset=preset, with_cp=3)


def test_parts_that_no_preset_has():
    with pytest.raises(TypeError, match="unexpected keyword argument 'positions'"):
        HookTokenizer(positions="rotary")
