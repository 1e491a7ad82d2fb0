"""Networks of generators: cache, causality, draws, guidance and flows against known values."""

import copy
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from hook.errors import ConfigError
from hook.models.generators import CodeSampling, FlowSampling, FlowTimes, filter_logits
from hook.models.generators.blocks import FinalNorm, rotary_table
from hook.models.generators.sampling import draw_codes, image_generators
from hook.registry import MODELS

GRID, CLASSES = (3, 4), 5
SMALL = dict(grid=GRID, embed_dims=16, num_heads=2, mlp_multiple=8)
CODES = {
    "CodeTransformer": dict(codebook_sizes=(11,), depth=2, num_kv_heads=1),
    "CodeTransformer with AdaLN": dict(codebook_sizes=(11,), depth=2, adaptive_norm=True),
    "FactorizedTransformer": dict(codebook_sizes=(4, 8, 5), depth=2, factor_depth=2),
    "DepthTransformer": dict(codebook_sizes=(7, 7), depth=3),
    "DepthTransformer of own tables": dict(
        codebook_sizes=(7, 9, 5), depth=4, head_blocks=(0, 2, 3), shared=()
    ),
    "FlatTransformer": dict(codebook_sizes=(7, 9, 5), depth=2),
}


def build(name, condition="class", init=False, num_classes=CLASSES, **options):
    torch.manual_seed(0)
    classes = dict(kind=condition, num_classes=num_classes, drop_rate=0.1)
    kind = dict(type=f"hook.{name.split()[0]}", condition=classes)
    network = MODELS.build(kind | SMALL | CODES.get(name, {}) | options)
    if init:
        network.init_weights()
    return network.eval()


def flow(condition="class", **options):
    torch.manual_seed(0)
    classes = dict(kind=condition, num_classes=CLASSES, drop_rate=0.1)
    sizes = dict(grid=GRID, in_channels=6, embed_dims=16, depth=2, num_heads=2)
    return MODELS.build(dict(type="hook.LightningDiT", condition=classes) | sizes | options).eval()


def labels_of(condition, count, grid=GRID):
    generator = torch.Generator().manual_seed(3)
    shape = (count, *grid) if condition == "map" else (count,)
    high = 1 if condition == "none" else CLASSES
    return torch.randint(high, shape, generator=generator)


def codes_of(network, count=2):
    generator = torch.Generator().manual_seed(4)
    shape = (count, math.prod(GRID))
    columns = [torch.randint(k, shape, generator=generator) for k in network.codebook_sizes]
    return torch.stack(columns, dim=-1)


# ------------------------------------------------------------------------------------ codes
@pytest.mark.parametrize("condition", ["none", "class", "map"])
@pytest.mark.parametrize("name", CODES)
def test_sampling_with_a_cache_equals_passes_over_all_codes(name, condition):
    network, labels = build(name, condition), labels_of(condition, 3)
    guidance = 1.0 if condition == "none" else 2.5
    found = network.sample(labels, image_generators(7, range(3)), guidance=guidance, top_k=4)
    assert len(found.unique()) > 2
    generators, options = image_generators(7, range(3)), CodeSampling(guidance=guidance, top_k=4)
    codes = torch.zeros_like(found)
    sides = [labels] if guidance == 1 else [labels, network.condition.unknowns(labels)]
    for position in range(codes.shape[1]):
        for column in range(codes.shape[2]):
            with torch.no_grad():
                logits = network(codes.repeat(len(sides), 1, 1), torch.cat(sides))[column]
            draw = draw_codes(logits[:, position], options, column, codes.shape[2], generators)
            codes[:, position, column] = draw
    assert torch.equal(found, codes)


@pytest.mark.parametrize("name", CODES)
def test_a_code_depends_on_those_before_it_alone(name):
    network, labels = build(name), labels_of("class", 2)
    codes = codes_of(network)
    before = network(codes, labels)
    columns = len(network.codebook_sizes)
    for position, column in ((5, 0), (5, columns - 1)):
        changed = codes.clone()
        size = network.codebook_sizes[column]
        changed[:, position, column] = (changed[:, position, column] + 1) % size
        for q, (old, new) in enumerate(zip(before, network(changed, labels), strict=True)):
            differs = (old - new).abs().amax(dim=(0, 2)) > 1e-6
            first = position if q > column else position + 1
            assert not differs[:first].any()
            assert differs[first:].all()


@pytest.mark.parametrize("name", CODES)
def test_at_first_all_codes_are_equally_likely(name):
    network = build(name, init=True)
    lengths = network.code_lengths(codes_of(network), labels_of("class", 2))
    expected = torch.tensor([math.log(size) for size in network.codebook_sizes])
    torch.testing.assert_close(lengths, expected.expand_as(lengths))


@pytest.mark.parametrize("name", CODES)
def test_every_weight_learns(name):
    network = build(name, "map").train()
    valid = torch.ones(2, math.prod(GRID), dtype=torch.bool)
    losses = network.loss(codes_of(network), labels_of("map", 2), valid)
    assert len(losses) == len(network.codebook_sizes)
    sum(losses.values()).backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.any(), key


def test_a_sequence_of_all_codes_has_the_weights_of_the_depth_transformer():
    options = dict(codebook_sizes=(7, 7), depth=3)
    flat, deep = build("FlatTransformer", **options), build("DepthTransformer", shared=())
    counts = [sum(weight.numel() for weight in one.parameters()) for one in (flat, deep)]
    assert counts[1] - counts[0] == SMALL["embed_dims"]  # a norm for each of two heads
    assert flat.length == 2 * deep.length


def test_invalid_positions_cost_nothing():
    network, labels = build("DepthTransformer"), labels_of("class", 2)
    codes, valid = codes_of(network), torch.rand(2, math.prod(GRID)) > 0.4
    assert not valid.all()
    lengths = network.code_lengths(codes, labels)
    for q, value in enumerate(network.loss(codes, labels, valid).values()):
        torch.testing.assert_close(value, lengths[..., q][valid].mean() / 2)


@pytest.mark.parametrize("name", CODES)
def test_a_tile_has_the_same_codes_in_any_batch(name):
    network, labels = build(name), labels_of("class", 6)
    whole = network.sample(labels, image_generators(5, range(6)), guidance=3.0)
    for size in (1, 4):
        parts = [
            network.sample(rows, image_generators(5, rows_range), guidance=3.0)
            for rows, rows_range in zip(labels.split(size), _ranges(6, size), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)
    other = network.sample(labels, image_generators(6, range(6)), guidance=3.0)
    assert (other != whole).any(dim=(1, 2)).all()


def _ranges(count, size):
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def test_codes_are_drawn_with_their_probabilities():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    many = 4000
    rows, generators = logits.expand(many, -1), image_generators(1, range(many))
    for options in (
        CodeSampling(),
        CodeSampling(temperature=2.0),
        CodeSampling(top_k=2),
        CodeSampling(top_p=0.7),
    ):
        p = filter_logits(logits[None] / options.temperature, options.top_k, options.top_p)
        p = p.softmax(dim=-1)[0]
        counts = torch.bincount(draw_codes(rows, options, 0, 1, generators), minlength=4)
        assert (counts[p == 0] == 0).all()
        # five standard deviations of a binomial count
        assert ((counts - many * p).abs() <= 5 * (many * p * (1 - p)).sqrt()).all()
    assert (draw_codes(rows, CodeSampling(temperature=0), 0, 1, generators) == 0).all()


def test_guidance_goes_from_unknown_to_the_condition_and_beyond():
    network, labels = build("FactorizedTransformer"), labels_of("class", 3)
    unknown = network.condition.unknowns(labels)

    def greedy(labels, **options):
        return network.sample(labels, temperature=0, **options)

    assert not torch.equal(greedy(labels), greedy(unknown))
    assert torch.equal(greedy(labels, guidance=0), greedy(unknown))
    assert torch.equal(greedy(labels, guidance=(1.0, 1, 1.0)), greedy(labels))
    assert not torch.equal(greedy(labels, guidance=(1.0, 8.0, 1.0)), greedy(labels))


def test_a_class_is_learned():
    network = build("CodeTransformer", init=True, codebook_sizes=(CLASSES + 1,)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    labels = torch.arange(CLASSES).repeat(4)
    codes = labels[:, None, None].repeat(1, math.prod(GRID), 1)
    codes[:, ::2] = CLASSES  # every second code is the same in all classes
    for _ in range(60):
        optimizer.zero_grad()
        sum(network.loss(codes, labels).values()).backward()
        optimizer.step()
    found = network.eval().sample(labels, image_generators(0, range(len(labels))))
    assert (found == codes).float().mean() > 0.97


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("CodeTransformer", dict(codebook_sizes=(4, 4)), "per position"),
        ("CodeTransformer", dict(num_heads=3), "attention heads"),
        ("CodeTransformer", dict(num_heads=8), "multiple of 4"),
        ("CodeTransformer", dict(start_rotary="none"), "start_rotary"),
        ("CodeTransformer", dict(condition="text"), "condition"),
        ("CodeTransformer", dict(num_classes=0), "needs classes"),
        ("CodeTransformer", dict(sampling=dict(top_p=0.0)), "top_p"),
        ("CodeTransformer", dict(sampling=dict(heat=1)), "unknown model.network.sampling options"),
        ("DepthTransformer", dict(head_blocks=(0, 1)), "head_blocks"),
        ("DepthTransformer", dict(codebook_sizes=(7,) * 4), "head_blocks"),
        ("DepthTransformer", dict(codebook_sizes=(7, 9)), "share no table"),
        ("DepthTransformer", dict(adaptive_norm=True), "AdaLN"),
        ("FlatTransformer", dict(adaptive_norm=True), "AdaLN"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, options, word):
    with pytest.raises(ConfigError, match=word) as caught:
        build(name, **options)
    assert caught.value.remedy


def test_sampling_options_that_do_not_fit_are_refused():
    network, labels = build("FactorizedTransformer"), labels_of("class", 1)
    for options, word in (
        (dict(heat=1.0), "unknown sampling options: heat"),
        (dict(temperature=(1.0, 2.0)), "temperature"),
        (dict(temperature=-1.0), "temperature"),
        (dict(top_k=1.5), "top_k"),
        (dict(guidance="much"), "guidance"),
    ):
        with pytest.raises(ConfigError, match=word):
            network.sample(labels, image_generators(0, range(1)), **options)
    network = build("FactorizedTransformer", condition="none")
    with pytest.raises(ConfigError, match="unknown class"):
        network.sample(torch.zeros(1).long(), image_generators(0, range(1)), guidance=2.0)
    network.sample(torch.zeros(1).long(), image_generators(0, range(1)), top_k=np.int64(2))
    for seed, first in ((2**32, 0), (0, 2**32), (1.5, 0)):
        with pytest.raises(ConfigError, match="an integer from 0 to 4294967295"):
            image_generators(seed, [first])


def test_two_digits_of_a_position_turn_by_row_and_column():
    sin, cos = rotary_table((2, 3), 8)
    # the first two pairs by the row (1), the others by the column (2), of the last position
    angles = torch.tensor([1.0, 1.0, 0.01, 0.01, 2.0, 2.0, 0.02, 0.02])
    torch.testing.assert_close(sin[-1], angles.sin())
    torch.testing.assert_close(cos[-1], angles.cos())


OFFICIAL = {"open_magvit2_ar_b": 343.6, "ibq_ar_b": 343, "dnd_xxl": 1436, "lightningdit_xl": 675}


@pytest.mark.parametrize(("name", "millions"), OFFICIAL.items())
def test_base_configs_have_the_official_sizes(repo, name, millions):
    config = Config.fromfile(repo / f"configs/_base_/models/{name}.py").model
    with torch.device("meta"), DefaultScope.overwrite_default_scope("hook"):
        network = MODELS.build(config).network
    count = sum(weight.numel() for weight in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions % 1 else 0.5)


# ------------------------------------------------------------------------------------ flows
@pytest.mark.parametrize("shift", [1.0, 0.3])
def test_the_flow_ends_where_velocities_lead(shift):
    network, end = flow(), torch.randn(6, *GRID)
    network.forward = lambda x, times, labels: (end - x) / (1 - times[:, None, None, None])
    points = [*network.trajectory(torch.randn(2, 6, *GRID), labels_of("class", 2), shift=shift)]
    assert len(points) == 50
    torch.testing.assert_close(points[-1], end.expand(2, -1, -1, -1), atol=1e-4, rtol=1e-4)
    # straight: at time t, t of the way is done
    times = FlowSampling(shift=shift).times()
    way = points[0] + times[20] * (end - points[0])
    torch.testing.assert_close(points[20], way, atol=1e-4, rtol=1e-4)


def test_guidance_of_a_flow_is_limited_in_channels_and_time():
    network, labels = flow(), labels_of("class", 2)
    x, unknown = torch.randn(2, 6, *GRID), network.condition.unknowns(labels)

    def velocity(time, **options):
        with torch.no_grad():
            return network.velocity(x, time, labels, FlowSampling(**options))

    with torch.no_grad():
        c, u = (network(x, torch.full((2,), 0.5), one) for one in (labels, unknown))
    guided = u + 4 * (c - u)
    torch.testing.assert_close(velocity(0.5, guidance=4.0), guided)
    some = velocity(0.5, guidance=4.0, guidance_channels=2)
    torch.testing.assert_close(some[:, :2], guided[:, :2])
    torch.testing.assert_close(some[:, 2:], c[:, 2:])
    torch.testing.assert_close(velocity(0.5, guidance=4.0, guidance_start=0.6), c)


@pytest.mark.parametrize("patch_size", [1, 2])
def test_a_flow_has_the_same_latents_in_any_batch(patch_size):
    grid = (4, 6)
    tokens = tuple(side // patch_size for side in grid)
    network = flow("map", patch_size=patch_size, grid=grid)
    labels = labels_of("map", 5, tokens)
    whole = network.sample(labels, image_generators(2, range(5)), points=4, guidance=2.0)
    assert whole.shape == (5, 24, 6)
    parts = [
        network.sample(labels[k : k + 1], image_generators(2, [k]), points=4, guidance=2.0)
        for k in range(5)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-5)


def test_a_new_flow_stands_still_and_its_loss_is_known():
    network = flow()
    network.init_weights()
    noise, latents = torch.randn(2, 2, 6, *GRID)
    labels, times = labels_of("class", 2), torch.tensor([0.2, 0.7])
    assert not network(noise, times, labels).any()
    errors, angles = network.path_losses(noise, latents, times, labels)
    torch.testing.assert_close(errors, (latents - noise).square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(angles, torch.ones(2))  # a vector of zeros has no direction


def test_invalid_positions_of_a_flow_cost_nothing():
    network, labels = flow(), labels_of("class", 2)
    noise, latents = torch.randn(2, 2, 6, *GRID)
    valid = torch.rand(2, math.prod(GRID)) > 0.4
    given = noise, latents, torch.tensor([0.2, 0.7]), labels
    with torch.no_grad():
        velocity = network(network.interpolate(*given[:3])[0], *given[2:])
        errors, _ = network.path_losses(*given, valid)
    squares = (velocity - (latents - noise)).square().mean(dim=1).flatten(1)
    expected = [row[mask].mean() for row, mask in zip(squares, valid, strict=True)]
    torch.testing.assert_close(errors, torch.stack(expected))


@pytest.mark.parametrize("patch_size", [1, 2])
def test_every_weight_of_a_flow_learns(patch_size):
    network = flow("map", patch_size=patch_size, grid=(4, 6), qk_norm=True).train()
    labels = labels_of("map", 2, tuple(side // patch_size for side in (4, 6)))
    sum(network.loss(torch.randn(2, 24, 6), labels).values()).backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.any(), key


@pytest.mark.parametrize("patch_size", [1, 2])
def test_a_block_is_drawn_towards_features(patch_size):
    options = dict(block=0, feature_channels=7, hidden_dims=9, weight=0.3)
    network = flow(patch_size=patch_size, grid=(4, 6), alignment=options).train()
    network.condition.drop_rate = 0.0
    latents, labels = torch.randn(2, 24, 6), labels_of("class", 2)
    features = torch.randn(2, 7, 8, 12)
    valid = torch.ones(2, 4, 6, dtype=torch.bool)
    valid[0, :2, :2] = False
    kept = []
    network.blocks[0].register_forward_hook(lambda *given: kept.append(given[-1]))
    losses = network.loss(latents, labels, valid.flatten(1), features)
    # a cell of the tokens is a square of the features
    side = 2 * patch_size
    cells = torch.nn.functional.avg_pool2d(features, side).flatten(2).mT
    cosine = torch.cosine_similarity(network.alignment.mlp(kept[0]), cells, dim=-1)
    known = valid[:, ::patch_size, ::patch_size].flatten(1)
    torch.testing.assert_close(losses["loss_alignment"], 0.3 * (1 - cosine)[known].mean())
    losses["loss_alignment"].backward()
    moved = {key.split(".")[0] for key, one in network.named_parameters() if one.grad is not None}
    assert moved >= {"alignment", "patch_embed", "time_embed"} and "head" not in moved
    assert all(one.grad is None for one in network.blocks[1].parameters())
    for channels, size in ((6, (8, 12)), (7, (1, 2))):
        with pytest.raises(ConfigError, match="does not fit the features"):
            network.loss(latents, labels, None, torch.randn(2, channels, *size))


def test_patches_go_back_to_their_places():
    network = flow(patch_size=2, grid=(4, 6))
    # a head that gives the values of the patch itself
    network.patch_embed = nn.Conv2d(6, 24, 2, 2, bias=False)
    order = [(row, column, c) for row in (0, 1) for column in (0, 1) for c in range(6)]
    with torch.no_grad():
        network.patch_embed.weight.zero_()
        for k, (row, column, c) in enumerate(order):
            network.patch_embed.weight[k, c, row, column] = 1
    network.blocks, network.norm = nn.ModuleList(), FinalNorm(nn.Identity())
    network.head, network.pos_embed = nn.Identity(), torch.zeros(1)
    x = torch.randn(2, 6, 4, 6)
    torch.testing.assert_close(network(x, torch.zeros(2), labels_of("class", 2)), x)


def test_times_are_between_their_limits():
    times = FlowTimes(limits=(0.2, 0.6)).draw(500)
    assert len(times) == 500 and 0.2 <= times.min() and times.max() <= 0.6
    uniform = FlowTimes(uniform=True).draw(2000)
    assert abs(float(uniform.mean()) - 0.5) < 0.04
    for options in (dict(std=0.0), dict(limits=(0.6, 0.2)), dict(mean=-10.0, limits=(0.9, 1.0))):
        with pytest.raises(ConfigError, match="times"):
            FlowTimes(**options)


def test_options_of_a_flow_that_do_not_fit_are_refused():
    for options, word in (
        (dict(patch_size=2), "patch_size"),
        (dict(embed_dims=18), "embed_dims"),
        (dict(sampling=dict(points=1)), "points"),
        (dict(sampling=dict(shift=0.0)), "shift"),
        (dict(times=dict(middle=0.0)), "unknown model.network.times options: middle"),
        (dict(alignment=dict(block=2, feature_channels=4)), "alignment"),
    ):
        with pytest.raises(ConfigError, match=word) as caught:
            flow(**options)
        assert caught.value.remedy


def test_networks_can_be_copied():
    """As moving averages of weights do."""
    for network in (build("FactorizedTransformer"), flow()):
        other = copy.deepcopy(network)
        assert other.state_dict().keys() == network.state_dict().keys()
