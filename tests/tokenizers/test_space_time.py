"""Tokens over time, rows, columns and band groups."""

import pytest
import torch

from hook.tokenizers import BandGroup, ImageFacts, SpaceTimeTokenizer, join_samples
from hook.tokenizers.packing import pack_patches, unpack_patches

SMALL = dict(embed_dims=32, depth=2, num_heads=4, patch_size=4)
GROUPS = [dict(bands=[0, 1, 2]), dict(bands=[3], factor=2)]
BANDS = [490.0, 560.0, 665.0, 1610.0]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(**options):
    return SpaceTimeTokenizer(**(SMALL | dict(resolution=10.0) | options)).eval()


def close(a, b):
    assert torch.allclose(a, b, atol=2e-6), (a - b).abs().max()


def test_tokens_of_one_date_are_the_cells():
    output = build()(torch.rand(2, 3, 13, 18))
    assert output.assign == "grid" and output.grid_size == (4, 5) and output.cell == 4
    assert output.tokens.shape == (2, 20, 32)
    assert output.token_map((13, 18))[0, 12, 17] == 19


def test_tokens_of_dates_and_groups_share_their_cells():
    tokenizer = build(in_channels=4, groups=GROUPS, wavelengths=BANDS)
    facts = ImageFacts(dates=torch.tensor([[1.0, 20.0, 45.0]]))
    output = tokenizer(torch.rand(1, 3, 4, 16, 24), facts)
    assert output.tokens.shape == (1, 3 * (4 * 6 + 2 * 3), 32)
    assert output.weights.shape == (1, 90, 4, 6)
    close(output.weights.sum(dim=1), torch.ones(1, 4, 6))
    assert (output.weights[0, 72] > 0).sum() == 4  # a patch of 20 m covers four of 10 m
    assert output.dense_features(output.tokens, (4, 6)).shape == (1, 32, 4, 6)


def test_packed_equals_one_by_one():
    tokenizer = build(in_channels=4, groups=GROUPS, wavelengths=BANDS)
    images = [torch.rand(1, 2, 4, 13, 18), torch.rand(1, 1, 4, 8, 8), torch.rand(1, 2, 4, 8, 24)]
    facts = [
        ImageFacts(dates=torch.tensor([[3.0, 9.0]]), resolution=20.0),
        None,
        ImageFacts(dates=torch.tensor([[19000.0, 19400.0]])),
    ]
    pairs = list(zip(images, facts, strict=True))
    packed = tokenizer.encode(join_samples([tokenizer.embed(*pair) for pair in pairs]))
    for tokens, pair in zip(packed.values.split(packed.counts), pairs, strict=True):
        close(tokens, tokenizer(*pair).tokens[0])
    batch = torch.rand(3, 2, 4, 8, 16)
    dates = ImageFacts(dates=torch.tensor([[1.0, 5.0], [2.0, 90.0], [3.0, 400.0]]))
    together = tokenizer(batch, dates).tokens
    for row in range(3):
        one = tokenizer(batch[row : row + 1], dates.take(torch.tensor([row]))).tokens
        close(together[row : row + 1], one)


def test_masked_dates_and_clouds_change_nothing():
    tokenizer = build(in_channels=4, groups=GROUPS, wavelengths=BANDS, nan_is_invalid=True)
    images = torch.rand(1, 3, 4, 16, 16)
    few = tokenizer(images[:, [0, 2]], ImageFacts(dates=torch.tensor([[10.0, 70.0]]))).tokens
    dates = torch.tensor([[10.0, torch.nan, 70.0]])
    close(tokenizer(images, ImageFacts(dates=dates)).tokens, few)
    dates = torch.tensor([[10.0, 30.0, 70.0]])
    valid = torch.ones(1, 3, 16, 16, dtype=torch.bool)
    valid[:, 1] = False
    close(tokenizer(images, ImageFacts(valid, dates=dates)).tokens, few)
    clouded = images.clone()
    clouded[:, 1] = torch.nan
    close(tokenizer(clouded, ImageFacts(dates=dates)).tokens, few)
    # What is under a cloud does not matter, and whole patches of it become no token.
    valid[:, 1], valid[:, 1, :5, :9] = True, False
    other = images.where(valid[:, :, None], 7.0)
    facts = ImageFacts(valid, dates=dates)
    close(tokenizer(other, facts).tokens, tokenizer(images, facts).tokens)
    assert tokenizer.embed(images, facts).counts == (3 * (16 + 4) - 2,)


@pytest.mark.parametrize("groups", [GROUPS, "each"])
def test_a_band_group_without_data_has_no_tokens(groups):
    tokenizer = build(in_channels=4, groups=groups, wavelengths=BANDS, nan_is_invalid=True)
    images = torch.rand(3, 4, 8, 16)
    images[0, 3] = images[1] = torch.nan
    packed = tokenizer.embed(images)
    whole = 10 if groups is GROUPS else 32
    assert packed.counts == ((8, 1, 10) if groups is GROUPS else (24, 1, 32))
    assert packed.places[:, 3].split(packed.counts)[1].tolist() == [0]  # one of a blank image
    # Tokens of other groups are those of the images that have no such group.
    alone = packed.where(packed.places[:, 3] < 3 if groups == "each" else packed.places[:, 3] == 0)
    seen, own = (tokenizer.encode(one).values for one in (packed, alone))
    close(seen[: packed.counts[0]], own[: alone.counts[0]])
    assert (seen[-whole:][: alone.counts[2]] - own[-alone.counts[2] :]).abs().max() > 1e-3


def test_wavelengths_of_a_single_group_do_not_matter():
    tokenizer, images = build(), torch.rand(1, 3, 8, 8)
    expected = tokenizer(images).tokens
    for waves in ([490.0, torch.nan, 665.0], [560.0] * 3):
        close(tokenizer(images, ImageFacts(wavelengths=torch.tensor(waves))).tokens, expected)


def test_padding_changes_nothing():
    tokenizer = build()
    image = torch.rand(1, 3, 8, 12)
    padded = torch.nn.functional.pad(image, (0, 9, 0, 6), value=5.0)
    valid = torch.zeros(1, 14, 21, dtype=torch.bool)
    valid[:, :8, :12] = True
    close(tokenizer(padded, ImageFacts(valid)).tokens, tokenizer(image).tokens)


def test_images_of_different_numbers_of_patches_are_packed_not_stacked():
    tokenizer, images = build(), torch.rand(2, 3, 8, 8)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[1, :4, :4] = False
    with pytest.raises(ValueError, match=r"\[3, 4\] patches with data"):
        tokenizer(images, ImageFacts(valid))
    packed = tokenizer.embed(images, ImageFacts(valid))
    assert packed.counts == (4, 3)
    blank = tokenizer(images, ImageFacts(valid & False))
    assert blank.tokens.shape == (2, 1, 32) and blank.tokens.isfinite().all()


def test_positions_are_differences_on_the_ground():
    tokenizer = build(in_channels=4, groups=GROUPS, wavelengths=BANDS)
    images = torch.rand(1, 2, 4, 16, 16)

    def tokens(*dates, **facts):
        facts = ImageFacts(dates=torch.tensor([dates], dtype=torch.float64), **facts)
        return tokenizer(images, facts).tokens

    start = tokens(0.0, 12.0)
    close(tokens(20000.0, 20012.0), start)
    assert (tokens(0.0, 60.0) - start).abs().max() > 1e-3
    assert (tokens(0.0, 12.0, resolution=30.0) - start).abs().max() > 1e-3
    shifted = torch.tensor([490.0, 560.0, 665.0, 842.0])
    assert (tokens(0.0, 12.0, wavelengths=shifted) - start).abs().max() > 1e-3
    # Half the pixels of twice the size lie at the same places.
    half = images[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    coarse = build(in_channels=4, groups=[dict(bands=range(4), factor=2)])
    fine = build(in_channels=4)
    fine.load_state_dict(coarse.state_dict())
    close(coarse(half[:, 0]).tokens, fine(half[:, 0, :, ::2, ::2], ImageFacts(None, 20.0)).tokens)


def test_groups_on_their_own_grids():
    tokenizer = build(in_channels=4, groups=GROUPS, wavelengths=BANDS)
    ten, twenty = torch.rand(1, 3, 16, 16), torch.rand(1, 1, 8, 8)
    enlarged = twenty.repeat_interleave(2, -1).repeat_interleave(2, -2)
    whole = tokenizer.embed(torch.cat([ten, enlarged], dim=1))
    facts = [ImageFacts(None, 10.0), ImageFacts(None, 20.0)]
    parts = tokenizer.embed([ten, twenty], facts)
    close(parts.values, whole.values)
    close(parts.positions, whole.positions)
    assert parts.of_group(1).counts == (4,) and parts.counts == (20,)


def test_official_positions_are_numbers():
    tokenizer = build(in_channels=4, groups=GROUPS, positions="index")
    packed = tokenizer.embed(torch.rand(1, 2, 4, 10, 8))
    assert packed.counts == (2 * (2 * 2 + 1),)  # cropped to 8 x 8 pixels
    assert torch.equal(packed.positions, packed.places)
    assert packed.positions[[0, 3, 4, 8, 9]].tolist() == [
        *([0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]),
        *([0, 0, 0, 1], [1, 0, 0, 1]),
    ]


def test_any_bands_in_any_order():
    tokenizer = build(groups="each")
    images, bands = torch.rand(1, 5, 8, 8), torch.tensor([490.0, 560.0, 665.0, 842.0, 1610.0])
    tokens = tokenizer(images, ImageFacts(wavelengths=bands)).tokens
    order = torch.tensor([3, 0, 4])
    some = ImageFacts(wavelengths=bands[order])
    assert tokenizer(images[:, order], some).tokens.shape == (1, 12, 32)
    turned = tokenizer(images.flip(1), ImageFacts(wavelengths=bands.flip(0))).tokens
    close(turned.unflatten(1, (5, 4)).flip(1), tokens.unflatten(1, (5, 4)))
    same = tokenizer(images[:, :1].expand(-1, 2, -1, -1), ImageFacts(wavelengths=bands[:2])).tokens
    assert (same[:, :4] - same[:, 4:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "images", "facts", "missing"),
    [
        (dict(), torch.rand(1, 3, 8, 8), None, "resolution"),
        (dict(), torch.rand(1, 2, 3, 8, 8), None, "resolution and dates"),
        (dict(resolution=10), torch.rand(1, 2, 3, 8, 8), None, "dates"),
        (dict(groups="each"), torch.rand(1, 3, 8, 8), ImageFacts(None, 5.0), "wavelengths"),
        (dict(), torch.rand(1, 3, 8, 8), ImageFacts(None, torch.tensor([torch.nan])), "resolution"),
    ],
)
def test_missing_facts_are_named(options, images, facts, missing):
    tokenizer = SpaceTimeTokenizer(**SMALL, **options)
    with pytest.raises(ValueError, match=f"the images lack {missing}, which"):
        tokenizer(images, facts)
    if "groups" not in options:
        SpaceTimeTokenizer(**SMALL, **options, positions="index")(images, facts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(positions="metric"), "positions must be"),
        (dict(num_heads=3), "divisible by num_heads"),
        (dict(num_heads=8), "multiple of 8"),
        (dict(groups="each", positions="index"), "needs positions='ground'"),
        (dict(patch_size=(1, 4)), "patch_size"),
        (dict(groups="all"), "groups must be"),
        (dict(groups=[dict(bands=[3])]), "name bands"),
        (dict(groups=[dict(bands=[0, 1]), dict(bands=[1, 2])]), "no band in common"),
        (dict(groups=[dict(bands=[0]), dict(bands=[])]), "must have bands"),
        (dict(groups=[dict(bands=[0], factor=2), dict(bands=[1], factor=3)]), "factors"),
        (dict(wavelengths=[490.0]), "1 wavelengths"),
        (dict(ranges=[(1, 2)]), "4 axes"),
        (dict(ranges=[(0, 2)] * 4), "shortest"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SpaceTimeTokenizer(**(SMALL | options))


def test_images_that_do_not_fit():
    tokenizer = build()
    with pytest.raises(ValueError, match="4 bands"):
        tokenizer(torch.rand(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"dates must be \(1, 2\)"):
        tokenizer(torch.rand(1, 2, 3, 8, 8), ImageFacts(dates=torch.zeros(1, 3)))
    with pytest.raises(ValueError, match=r"dates must be \(2, 3\)"):
        tokenizer(torch.rand(2, 3, 3, 8, 8), ImageFacts(dates=torch.zeros(3, 2)))
    for valid in (torch.ones(1, 8, 4, dtype=torch.bool), torch.ones(1, 8, 8)):
        with pytest.raises(ValueError, match=r"valid must be bool of \(1, 1, 8, 8\)"):
            tokenizer(torch.rand(1, 3, 8, 8), ImageFacts(valid))
    with pytest.raises(ValueError, match="2 wavelengths do not fit 3 bands"):
        groups = build(groups="each")
        groups(torch.rand(1, 3, 8, 8), ImageFacts(wavelengths=torch.tensor([490.0, 560.0])))
    with pytest.raises(ValueError, match="1 bands, the tokenizer expects 3"):
        tokenizer.embed([torch.rand(1, 1, 8, 8)])
    with pytest.raises(ValueError, match="2 images"):
        tokenizer.embed([torch.rand(1, 3, 8, 8)] * 2)
    with pytest.raises(ValueError, match="smaller than a patch"):
        build(positions="index")(torch.rand(1, 3, 8, 3))
    with pytest.raises(ValueError, match="pooling=True"):
        tokenizer.pool(tokenizer.embed(torch.rand(1, 3, 8, 8)))


def test_pooling_is_one_vector_of_length_one_a_sample():
    tokenizer = build(pooling=True)
    packs = [tokenizer.embed(torch.rand(1, 3, side, 8)) for side in (8, 20)]
    pooled = tokenizer.pool(tokenizer.encode(join_samples(packs)))
    close(pooled.norm(dim=1), torch.ones(2))
    close(pooled[1:], tokenizer.pool(tokenizer.encode(packs[1])))


def test_patches_come_back():
    series = torch.rand(2, 3, 5, 10, 7)
    known = torch.rand(2, 3, 1, 10, 7) > 0.6
    known[1, :, :, :4, :4] = False
    packed = pack_patches(series, (2, 4, 4), known)
    assert packed.counts[1] < packed.counts[0] == 2 * 3 * 2
    for image, mask, back in zip(series, known, unpack_patches(packed, (2, 4, 4)), strict=True):
        assert torch.equal(back[:3, :, :10, :7], image * mask)


def test_samples_of_packs_are_selected_padded_and_found_in_others():
    known = torch.ones(3, 1, 1, 8, 8, dtype=torch.bool)
    known[1, ..., :4, 4:] = False
    images = torch.rand(3, 1, 2, 8, 8)
    packed, whole = (pack_patches(images, (1, 4, 4), mask) for mask in (known, None))
    values, inside = packed.padded()
    assert values.shape == (3, 4, 32) and inside.sum(dim=1).tolist() == [4, 3, 4]
    assert torch.equal(values[inside], packed.values) and whole.padded()[1] is None
    found = whole.found_in(packed).unflatten(0, (3, 4))
    assert (~found).nonzero().tolist() == [[1, 1]] and packed.found_in(whole).all()
    turned = packed.take(torch.tensor([1, 0]))
    assert turned.counts == (3, 4) and turned.samples.tolist() == [0] * 3 + [1] * 4
    assert torch.equal(turned.values, torch.cat([values[1, :3], values[0]]))


def test_gradients_reach_all_weights():
    tokenizer = build(
        in_channels=4, groups=GROUPS, wavelengths=BANDS, table_size=4, qk_norm=True
    ).train()
    tokenizer(torch.rand(2, 4, 16, 16)).tokens.square().sum().backward()
    assert not [name for name, one in tokenizer.named_parameters() if one.grad is None]
    assert tokenizer.groups[1] == BandGroup(bands=[3], factor=2)


def test_exported():
    tokenizer, image = build(table_size=4), torch.rand(1, 3, 16, 16)
    output = torch.export.export(tokenizer, (image,)).module()(image)
    close(output.tokens, tokenizer(image).tokens)
