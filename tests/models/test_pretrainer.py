"""Learning without labels: losses against known values, frozen features, weights for others."""

import pytest
import torch
from mmengine.structures import PixelData
from torch import nn

from hook.engine.tta import apply_view, views
from hook.errors import CheckpointError, ConfigError
from hook.models import SeedAlignment, SeedReconstruction, TokenAlignment, TokenPretrainer
from hook.models.pretrain_losses import PretrainPass, Widths
from hook.models.pretrained import load_pretrained
from hook.registry import MODELS
from hook.structures import ClsDataSample

SIZE, BANDS = 32, 2
WIDTHS = Widths(bands=BANDS, stride=4, seeds=16, tokens=24, features=BANDS)


@MODELS.register_module(force=True)
class CellMeans(nn.Module):
    """A network whose features turn with the images: the mean of each band over 8 x 8 pixels."""

    channels, strides, calls = [BANDS], [8], 0

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def check_bands(self, num_bands):
        assert num_bands == BANDS

    def forward(self, images):
        CellMeans.calls += 1
        return [nn.functional.avg_pool2d(images, 8)]


FROZEN = dict(frozen=dict(type="hook.CellMeans", mean=0, std=1), feature_channels=BANDS)


def backbone(preset="objects", **options):
    tokenizer = dict(type="hook.HookTokenizer", preset=preset, img_size=SIZE, in_channels=BANDS)
    tokenizer |= dict(seed_dims=16, num_tokens=4)
    if preset == "fast":
        tokenizer |= dict(perception_heads=(1, 1))
    sizes = dict(embed_dims=24, depth=1, num_heads=2)
    return dict(type="hook.TokenViT", tokenizer=tokenizer, **sizes) | options


def pretrainer(preset="objects", frozen=True, **options):
    torch.manual_seed(0)
    kinds = ["SeedReconstruction", *["SeedAlignment", "TokenAlignment"] * frozen]
    options = (dict(FROZEN) if frozen else {}) | options
    if options.get("frozen"):
        options["frozen"] = dict(type="hook.CellMeans")
    if preset == "objects":
        options["region_loss"] = dict(type="hook.RegionLoss", from_labels=False)
    preprocessor = dict(type="hook.ClsDataPreProcessor", mark_invalid=preset != "reference")
    return TokenPretrainer(
        backbone(preset),
        [dict(type=f"hook.{kind}") for kind in kinds],
        data_preprocessor=preprocessor,
        **options,
    )


def samples(count, valid=None):
    found = [ClsDataSample(metainfo=dict(sample_idx=index)) for index in range(count)]
    for sample, mask in zip(found, [] if valid is None else valid, strict=False):
        sample.valid_mask = PixelData(data=mask[None].to(torch.uint8))
    return found


def passed(images, valid=None, tokens=None, regions=((0, 1), (2, 3)), maps=()):
    """Four square regions, with tokens of zeros by default."""
    side = images.shape[-1] // 4
    cells = torch.tensor(regions).repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1)
    weights = (cells == torch.arange(4)[:, None, None]).float().expand(len(images), -1, -1, -1)
    tokens = torch.zeros(len(images), 4, WIDTHS.tokens) if tokens is None else tokens
    seeds = torch.zeros(len(images), WIDTHS.seeds, side, side)
    return PretrainPass(images, valid, tokens, weights, "token", seeds, maps)


def test_pixels_are_normalised_and_stand_in_the_order_of_the_seed():
    images = torch.randn(3, BANDS, SIZE, SIZE) * 3 + 5
    targets, known = SeedReconstruction(WIDTHS).targets(passed(images))
    assert known is None
    deviation = (images.var((2, 3), correction=0, keepdim=True) + 0.01).sqrt()
    normal = (images - images.mean((2, 3), keepdim=True)) / deviation
    of_seed = targets.unflatten(1, (BANDS, 4, 4))[:, :, :, :, 5, 3]  # row 5, column 3
    torch.testing.assert_close(of_seed, normal[:, :, 20:24, 12:16])


def test_reconstruction_costs_the_mean_squared_error():
    # A chequerboard of -3 and 3: its variance is 9, and a prediction of zero explains nothing.
    board = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2 * 6.0 - 3
    images = board.expand(2, BANDS, -1, -1)
    loss = SeedReconstruction(WIDTHS, weight=2.0, feature_weight=0.5)
    nn.init.zeros_(loss.mlp[-1].weight), nn.init.zeros_(loss.mlp[-1].bias)
    maps = [torch.full((2, BANDS, 4, 4), 2.0)]
    found = loss(passed(images, maps=maps))
    assert found["loss_pixels"].item() == pytest.approx(2 * 9 / 9.01)
    assert found["loss_features"].item() == pytest.approx(0.5 * 4)


def test_a_seed_is_told_its_place_in_the_region_of_its_token():
    loss = SeedReconstruction(WIDTHS)
    places = loss.place(passed(torch.zeros(1, BANDS, SIZE, SIZE)))
    # All regions are squares of 4 x 4 seeds, so places repeat.
    torch.testing.assert_close(places[0, :4, :4], places[0, 4:, 4:], atol=1e-5, rtol=0)
    first = loss.places(torch.tensor([-6.0, 2.0]))  # pixels from the centroid of the region
    torch.testing.assert_close(places[0, 0, 2], first)


@pytest.mark.parametrize(("sign", "expected"), [(1, 0.0), (-1, 2.0)])
def test_tokens_align_with_the_features_of_their_regions(sign, expected):
    maps = [torch.randn(2, BANDS, 2, 2)]  # a position per region
    of_regions = maps[0].repeat_interleave(4, 2).repeat_interleave(4, 3)
    tokens = torch.zeros(2, 4, WIDTHS.tokens)
    tokens[..., :BANDS] = sign * maps[0].flatten(2).mT
    data = passed(torch.zeros(2, BANDS, SIZE, SIZE), tokens=tokens, maps=[of_regions])
    loss = TokenAlignment(WIDTHS, weight=1.0)
    with torch.no_grad():
        loss.align.proj.weight.copy_(torch.eye(BANDS, WIDTHS.tokens)[..., None, None])
    # Opposite vectors have the same cosines among themselves.
    assert float(loss(data)["loss_tokens"]) == pytest.approx(expected, abs=1e-5)


def test_seeds_align_on_the_coarser_of_two_grids():
    maps = [torch.randn(2, BANDS, 4, 4)]
    data = passed(torch.zeros(2, BANDS, SIZE, SIZE), maps=maps)
    data.seeds[:, :BANDS] = maps[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
    loss = SeedAlignment(WIDTHS, weight=1.0)
    with torch.no_grad():
        loss.align.proj.weight.copy_(torch.eye(BANDS, WIDTHS.seeds)[..., None, None])
    assert float(loss(data)["loss_seeds"]) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("preset", ["objects", "fast", "reference"])
def test_every_preset_trains_every_weight(preset):
    model = pretrainer(preset).train()
    losses = model.loss(torch.randn(3, BANDS, SIZE, SIZE), samples(3))
    names = {"loss_pixels", "loss_features", "loss_seeds", "loss_tokens"}
    assert set(losses) == names | ({"loss_regions"} if preset == "objects" else set())
    sum(losses.values()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


def test_without_a_foreign_network_the_error_of_pixels_falls():
    model = pretrainer(frozen=False).train()
    images = torch.randn(4, BANDS, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    curve = []
    for _ in range(40):
        losses = model.loss(images, samples(4))
        assert set(losses) == {"loss_pixels", "loss_regions"}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        curve.append(float(losses["loss_pixels"]))
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])


def test_invalid_pixels_are_no_target():
    images, maps = torch.randn(2, BANDS, SIZE, SIZE), torch.randn(2, BANDS, 8, 8)
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[0, :, 18:] = False  # through the fifth column of seeds
    invalid_cells = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    invalid_cells[0, :, :, 5:] = True
    for kind in (SeedReconstruction, SeedAlignment, TokenAlignment):
        loss = kind(WIDTHS)
        before = loss(passed(images, valid, maps=[maps]))
        changed = passed(
            images.where(valid[:, None], torch.nan),
            valid,
            maps=[maps.masked_fill(invalid_cells, 9)],
        )
        for name, value in loss(changed).items():
            torch.testing.assert_close(value, before[name], msg=name)
            # Without the mask they would count.
            assert not torch.isclose(value, loss(passed(images, maps=[maps]))[name], rtol=1e-5), (
                name
            )


@pytest.mark.parametrize("preset", ["objects", "fast"])
def test_invalid_pixels_cost_nothing(preset):
    model = pretrainer(preset, turn=False, jitter=0.0).eval()
    images = torch.randn(2, BANDS, SIZE, SIZE)
    valid = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    valid[0, :, 24:] = False
    valid[1, :8, :16] = False
    changed = images.where(valid[:, None], 7.0).requires_grad_()
    torch.manual_seed(1)  # of the scale of the regions' loss
    before = model.loss(images, samples(2, valid))
    torch.manual_seed(1)
    after = model.loss(changed, samples(2, valid))
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], msg=name)
    sum(after.values()).backward()
    assert not changed.grad[~valid[:, None].expand_as(changed)].any()
    assert changed.grad[valid[:, None].expand_as(changed)].any()


def test_an_image_with_fewer_valid_seeds_than_tokens_has_fewer_tokens():
    model = pretrainer().eval()
    valid = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    valid[0, :4, :8], valid[1] = True, True  # two seeds, and all
    losses = model.loss(torch.randn(2, BANDS, SIZE, SIZE), samples(2, valid))
    assert all(value.isfinite() for value in losses.values())


# ---------------------------------------------------------------------------------- network
def test_images_and_features_turn_alike():
    model, network = pretrainer(jitter=0.0), CellMeans()
    images = torch.randn(64, BANDS, SIZE, SIZE)
    torch.manual_seed(2)
    turned, maps = model._turned([images, network(images)[0]])
    torch.testing.assert_close(network(turned)[0], maps)
    drawn = {
        view
        for one, now in zip(images, turned, strict=True)
        for view in views(square=True)
        if torch.equal(apply_view(one, view), now)
    }
    assert len(drawn) == 8
    wide = model._turned([images[..., :16, :]])[0]
    assert wide.shape == (64, BANDS, 16, SIZE)  # a rectangle keeps its sides


def test_stored_features_give_the_losses_of_computed_ones():
    model = pretrainer(jitter=0.0).eval()
    images = torch.randn(4, BANDS, SIZE, SIZE)
    model.feature_mean += 0.3
    model.feature_std *= 0.5
    torch.manual_seed(3)
    computed = model.loss(images, samples(4))
    order, stored = [2, 0, 3, 1], CellMeans()(images)[0]
    model.stored_maps = lambda indexes: [stored[indexes]]
    calls = CellMeans.calls
    torch.manual_seed(3)
    found = model.loss(images, samples(4))
    assert CellMeans.calls == calls  # the network did not run
    for name, value in computed.items():
        torch.testing.assert_close(found[name], value)
    mixed = [samples(4)[index] for index in order]
    torch.manual_seed(3)
    assert not torch.equal(model.loss(images, mixed)["loss_features"], found["loss_features"])


def test_the_network_sees_bands_with_the_statistics_of_imagenet():
    """Bands normalised by ImageNet's statistics arrive as the network's own values."""
    frozen = dict(type="hook.FrozenBackbone", weights=None, levels=(1,), bands=(1, 0, 1))
    model = pretrainer(frozen=False)
    model._frozen_cfg, model.widths = frozen, Widths(BANDS, 4, 16, 24, 24)
    network = model.build_frozen()
    pixels = torch.linspace(0, 1, 5)  # of an image in [0, 1]
    own = MODELS.build(frozen)
    expected = (2 * pixels - 1 - own.mean) / own.std
    normal = (pixels - 0.449) / 0.226
    torch.testing.assert_close((normal - network.mean) / network.std, expected)


# ---------------------------------------------------------------------------------- weights
def test_weights_load_into_a_classifier_and_a_segmentation(tmp_path):
    model = pretrainer()
    file = tmp_path / "checkpoint.pth"
    torch.save(dict(state_dict=model.state_dict()), file)
    head = dict(type="hook.LinearClsHead", num_classes=3, in_channels=24)
    loss = dict(type="hook.RegionLoss", from_labels=False)
    torch.manual_seed(1)
    classifier = MODELS.build(
        dict(type="hook.TokenClassifier", backbone=backbone(), head=head, region_loss=loss)
    )
    report = classifier.load_state_dict(torch.load(file)["state_dict"], strict=False)
    assert report.missing_keys == ["head.fc.weight", "head.fc.bias"]
    dense = MODELS.build(backbone(out_indices=(0,), seed_skip=True))
    assert not load_pretrained(dense, str(file))["kept"]
    images = torch.randn(2, BANDS, SIZE, SIZE)
    for other in (classifier.backbone, dense):
        tokens = other.eval().forward_with_tokens(images)[1]
        own = model.eval().backbone.forward_with_tokens(images)[1]
        torch.testing.assert_close(tokens[1].embeddings, own[1].embeddings)


def test_a_prediction_holds_the_tokens():
    model = pretrainer().eval()
    images = torch.randn(2, BANDS, SIZE, SIZE)
    with torch.no_grad():
        found = model(images, samples(2), mode="predict")
        assert model(images).shape == (2, 4, 24)
    assert [one.tokens.embeddings.shape for one in found] == [(4, 24)] * 2


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="belong together"):
        pretrainer(frozen=False, feature_channels=3)
    with pytest.raises(ConfigError, match="SeedAlignment compares features of a frozen network"):
        TokenPretrainer(backbone(), [dict(type="hook.SeedAlignment")])
    with pytest.raises(ConfigError, match="feature_channels is not that") as caught:
        pretrainer(feature_channels=5).build_frozen()
    assert "expected: 2" in str(caught.value)
    patches = dict(type="hook.PatchEmbedTokenizer", img_size=SIZE, patch_size=8)
    with pytest.raises(ConfigError, match="cannot be pretrained"):
        TokenPretrainer(backbone() | dict(tokenizer=patches), [])
    with pytest.raises(ConfigError, match=r"losses: weight"):
        TokenPretrainer(backbone(), [dict(type="hook.SeedReconstruction", weight=0)])
    with pytest.raises(CheckpointError):
        load_pretrained(MODELS.build(backbone()), "missing.pth")
