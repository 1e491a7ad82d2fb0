import math

import pytest
import torch
import torch.nn.functional as F

from hook.tokenizers import HookTokenizer, ObjectVectorization, TokenizerOutput


def small(**options):
    options = dict(img_size=32, seed_dims=32, embed_dims=48) | options
    return HookTokenizer(**options).eval()


def test_reference_preset_has_the_papers_sizes():
    tokenizer = HookTokenizer()
    assert tokenizer.num_tokens == 6
    assert tokenizer.vectorization.queries.shape == (6, 768)
    assert tokenizer.stem.project.out_channels == 512
    assert tokenizer.pos_embed.shape == (1, 56 * 56, 512)
    assert tokenizer.perception.blocks[0].window == (28, 28)
    assert tokenizer.perception.blocks[1].window is None


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


def test_class_token_stands_in_front_and_changes_nothing_else():
    plain, with_cls = small(), small(with_cls_token=True)
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


def test_gradients_reach_every_parameter():
    tokenizer = small(with_cls_token=True).train()
    output = tokenizer(torch.rand(2, 3, 32, 32))
    (output.tokens.square().sum() + output.assignment.square().sum()).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert tokenizer.stem.expand.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [32, 36])
def test_dtypes_agree_with_float64(dtype, size, tolerances):
    tokenizer = small(img_size=size)
    image = torch.rand(2, 3, size, size)
    exact = tokenizer.double()(image.double())
    assert exact.tokens.dtype == torch.float64
    output = tokenizer.to(dtype)(image.to(dtype))
    assert output.tokens.dtype == dtype
    absolute, relative = tolerances[dtype]
    assert torch.allclose(output.tokens.double(), exact.tokens, atol=absolute, rtol=relative)
    error = (output.assignment.double() - exact.assignment).abs().max()
    assert error <= absolute * exact.assignment.max()


def test_compiled_equals_eager(compiles):
    tokenizer = small()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        eager = tokenizer(image)
        compiled = torch.compile(tokenizer)(image)
    assert torch.allclose(compiled.tokens, eager.tokens, atol=1e-5)
    assert torch.allclose(compiled.assignment, eager.assignment, atol=1e-6)


def test_exported_equals_eager(tmp_path):
    tokenizer = small(with_cls_token=True)
    image = torch.rand(2, 3, 32, 32)
    program = torch.export.export(
        tokenizer, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    batch = torch.rand(5, 3, 32, 32)
    exported, eager = program.module()(batch), tokenizer(batch)
    assert torch.allclose(exported.tokens, eager.tokens, atol=1e-5)
    assert torch.allclose(exported.assignment, eager.assignment, atol=1e-6)


def test_constant_image_gives_finite_tokens():
    output = small()(torch.zeros(1, 3, 32, 32))
    assert torch.isfinite(output.tokens).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(preset="none"), "unknown preset"),
        (dict(img_size=3), "at least 4 x 4"),
        (dict(num_tokens=0), "num_tokens must be at least 1"),
        (dict(seed_dims=30), "divisible"),
        (dict(assign="pixel"), "assign"),
    ],
)
def test_bad_options_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 4, 32, 32), "4 bands"), ((1, 3, 36, 32), "36 x 32")]
)
def test_other_images_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.rand(shape))


def test_scale_of_attention_follows_the_head():
    tokenizer = small(seed_dims=64)
    assert math.isclose(tokenizer.vectorization.scale, 32**-0.5)
