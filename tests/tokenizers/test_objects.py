"""The preset objects: a token per region of a hierarchy of merges."""

import pytest
import torch
from scipy import ndimage

from hook.tokenizers import HookTokenizer, ImageFacts, RegionVectorization


def small(**options):
    torch.manual_seed(0)
    options = dict(img_size=32, seed_dims=32, embed_dims=48, num_tokens=6) | options
    return HookTokenizer("objects", **options).eval()


def image(height=40, width=44, batch=2):
    generator = torch.Generator().manual_seed(1)
    blocks = torch.rand(batch, 3, -(-height // 8), -(-width // 8), generator=generator)
    blocks = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)[..., :height, :width]
    return blocks + 0.1 * torch.rand(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("number", [1, 6, 23])
def test_each_seed_belongs_to_one_token_and_each_token_is_one_connected_region(number):
    output = small()(image(), num_tokens=number)
    assert output.tokens.shape == (2, number, 48)
    assert output.assignment.shape == (2, number, 10, 11)
    assert torch.equal(output.assignment.sum(1), torch.ones(2, 10, 11))
    for weights in output.assignment.flatten(0, 1):
        assert ndimage.label(weights.numpy())[1] == 1


def test_more_tokens_cut_the_regions_of_fewer():
    tokenizer = small()
    coarse, fine = (tokenizer(image(), num_tokens=n).token_map() for n in (4, 15))
    for one, other in zip(coarse, fine, strict=True):
        pairs = torch.stack([one.flatten(), other.flatten()], dim=1).unique(dim=0)
        assert len(pairs) == 15


def test_other_images_and_padding_change_no_token():
    tokenizer, images = small(), image()
    alone = tokenizer(images[:1])
    assert torch.allclose(tokenizer(images).tokens[:1], alone.tokens, atol=1e-5)
    valid = torch.zeros(1, 48, 64, dtype=torch.bool)
    valid[:, :40, :44] = True
    padded = torch.full((1, 3, 48, 64), torch.nan)
    padded[..., :40, :44] = images[:1]
    output = tokenizer(padded, facts=ImageFacts(valid))
    assert torch.allclose(output.tokens, alone.tokens, atol=1e-5)
    assert torch.equal(output.assignment[..., :10, :11], alone.assignment)
    assert not output.assignment[..., 11:].any()


def test_more_islands_than_tokens_share_the_last_token():
    valid = torch.zeros(1, 32, 32, dtype=torch.bool)
    valid[:, ::8, ::8] = True  # 16 seeds that do not touch
    output = small()(torch.rand(1, 3, 32, 32), num_tokens=5, facts=ImageFacts(valid))
    assert output.assignment.sum((2, 3)).tolist() == [[1, 1, 1, 1, 12]]
    blank = small()(torch.rand(1, 3, 32, 32), facts=ImageFacts(torch.zeros_like(valid)))
    assert blank.tokens.isfinite().all() and not blank.assignment.any()


def test_training_draws_from_a_quarter_to_four_times_the_tokens():
    tokenizer = small(num_tokens=8).train()
    drawn = {tokenizer.draw_tokens() for _ in range(500)}
    assert drawn == set(range(2, 33))
    assert tokenizer(image()).num_tokens in drawn


def test_the_tokens_that_explain_a_share_are_the_fewest_that_do():
    """Against the variance of the grouping features within the regions, computed directly."""
    tokenizer, share = small(), 0.7
    seeds = tokenizer.perceive(image())
    counts = tokenizer.count_tokens(seeds, share)
    features = tokenizer.grouping(seeds).flatten(1, 2).detach().double()
    hierarchy = tokenizer.hierarchy(seeds)

    def explained(count):
        regions = hierarchy.cut(count).flatten(1)
        result = []
        for x, of in zip(features, regions, strict=True):
            within = sum(
                ((x[of == r] - x[of == r].mean(0)) ** 2).sum() for r in range(int(of.max()) + 1)
            )
            result.append(float(1 - within / ((x - x.mean(0)) ** 2).sum()))
        return result

    for b, count in enumerate(counts.tolist()):
        # A merge costs at least what those within it cost: sums of costs are slightly too large.
        assert explained(count)[b] >= share
        assert explained(max(count - 3, 1))[b] < share


def test_colour_counts_as_three_bands_do():
    bands = image().repeat(1, 4, 1, 1)
    tokenizer = small(in_channels=12)
    seeds = tokenizer.perceive(bands)
    colours = tokenizer.grouping(seeds)[..., 12:]
    plain = small().grouping(small().perceive(image()))[..., 12:]
    assert torch.allclose(colours.square().sum(-1), plain.square().sum(-1), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [dict(assign="seed"), dict(max_tokens=8), dict(num_iterations=2), dict(diffusion_steps=3)],
)
def test_options_of_queries_are_refused(options):
    with pytest.raises(ValueError, match=f"'objects' does not support {next(iter(options))}"):
        small(**options)


def test_a_token_is_read_from_the_seeds_of_its_region():
    """Against the formulas, region by region."""
    torch.manual_seed(0)
    module = RegionVectorization(seed_dims=8, embed_dims=12).double()
    seeds = torch.randn(1, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    regions = torch.tensor([[[0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [2, 2, 2, 2, -1], [2, 2, 2, 2, 2]]])
    tokens = module(seeds, regions, 3)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    places = 4.0 * torch.stack([rows, columns], dim=-1)
    for number in range(3):
        inside = regions[0] == number
        x = module.norm_seeds(seeds[0][inside])
        key, value = module.to_key_value(x).chunk(2, dim=-1)
        query = module.to_query(x.mean(0)) + module.query
        read = (key @ query / 2).softmax(0) @ value  # a head is 4 wide
        parts = torch.cat([read, x.amax(0), (x.var(0, correction=0) + 1e-6).sqrt()])
        place = places[inside].double()
        extent = (place.var(0, correction=0) + 1).log() / 4
        size = torch.tensor([float(inside.sum())]).double().log1p() / 4
        where = torch.cat([module.positions(place.mean(0)), extent, size])
        token = module.proj(module.norm_read(parts)) + module.place(where)
        assert torch.allclose(tokens[0, number], token + module.feed_forward(token))
    tokens[0, 1].sum().backward()
    assert torch.equal(seeds.grad[0].abs().sum(-1) > 0, regions[0] == 1)
