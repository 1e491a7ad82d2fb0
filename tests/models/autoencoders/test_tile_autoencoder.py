"""TileAutoencoder: any size, invalid pixels, training steps with two optimizers, refusals."""

import copy

import pytest
import torch
from mmengine.structures import PixelData
from torch import nn
from torch.nn.functional import pixel_shuffle

from hook.engine.configs import load_config
from hook.engine.frozen_features import StoredFeatures
from hook.engine.optim import PartsOptimWrapperConstructor
from hook.engine.runner import build_runner
from hook.errors import ConfigError, DataError
from hook.models.autoencoders import FrozenBackbone, TileAutoencoder
from hook.models.autoencoders.losses import Equivariance
from hook.registry import MODELS, OPTIM_WRAPPERS
from hook.structures import ClsDataSample

FROZEN = dict(
    type="hook.FrozenBackbone",
    model="test_efficientnet.r160_in1k",
    weights=None,
    levels=(0, 1),
    bands=(2, 0, 1),
)
GAN = dict(
    discriminator=dict(type="hook.PatchDiscriminator", in_channels=4, embed_dims=8, num_layers=1)
)
ADVERSARIAL = dict(type="hook.AdversarialLoss", adaptive=True, lecam_weight=0.1)


@MODELS.register_module(force=True)
class StubEncoder(nn.Module):
    """Convolutions that look at a square of pixels each."""

    def __init__(self, in_channels=4, out_channels=6, stride=4):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.conv_in = nn.Conv2d(in_channels, 8, stride, stride)
        self.conv_out = nn.Conv2d(8, out_channels, 1)

    def forward(self, images):
        return self.conv_out(self.conv_in(images).tanh())


@MODELS.register_module(force=True)
class StubDecoder(nn.Module):
    """A convolution for each square of pixels."""

    def __init__(self, in_channels=6, out_channels=4, stride=4):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.conv_out = nn.Conv2d(in_channels, out_channels * stride**2, 1)

    def forward(self, latents):
        return pixel_shuffle(self.conv_out(latents), self.stride)


def build(**options) -> TileAutoencoder:
    torch.manual_seed(0)
    cfg = dict(
        type="hook.TileAutoencoder",
        encoder=dict(type="StubEncoder"),
        decoder=dict(type="StubDecoder"),
        quantizer=dict(type="VectorQuantizer", codebook_size=16, embed_dims=6),
        data_preprocessor=dict(type="hook.CodecDataPreProcessor", mean=[100.0] * 4, std=[50.0] * 4),
    )
    return MODELS.build(cfg | options)


def batch(size=(16, 16), valid=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.rand(4, *size, generator=generator) * 200 for _ in range(3)]
    samples = [ClsDataSample(metainfo=dict(img_path=f"{i}.tif")) for i in range(3)]
    if valid is not None:
        for sample in samples:
            sample.valid_mask = PixelData(data=valid[None].to(torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def optimizers(model, **options):
    one = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-2)) | options
    if model.discriminator is None:
        return OPTIM_WRAPPERS.build(
            one | dict(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        )
    cfg = dict(autoencoder=copy.deepcopy(one), discriminator=copy.deepcopy(one))
    return PartsOptimWrapperConstructor(cfg)(model)


STORED = """
model["frozen"] = dict(
    type="hook.FrozenBackbone", model="test_efficientnet.r160_in1k", weights=None, levels=(1,),
    bands=(0, 1, 0),
)
model["losses"].append(dict(type="hook.AlignmentLoss", in_channels=8, feature_channels=24))
model["equivariance"] = None
custom_hooks.append(dict(type="hook.FrozenFeatureHook", keep=True))
custom_hooks.insert(0, dict(type="hook.TimeLimitHook", minutes=60))
"""


# ------------------------------------------------------------------------------------ codes
@pytest.mark.parametrize("size", [(16, 16), (13, 6)])
def test_images_of_any_size_become_codes_and_images_again(size):
    model = build().eval()
    samples = model.test_step(batch(size))
    grid = tuple(-(-side // 4) for side in size)
    for sample in samples:
        assert sample.codes.shape == grid and sample.latents.shape == (6, *grid)
        assert sample.reconstruction.shape == sample.image.shape == (4, *size)
        assert sample.codebook_sizes == (16,) and sample.indices_kind == "single"
    torch.testing.assert_close(samples[0].image, batch(size)["inputs"][0])
    assert samples[1].img_path == "1.tif"
    # codes alone give the same images
    codes = torch.stack([s.codes for s in samples]).flatten(1)
    images = model.decode(model.quantizer.decode(codes, grid), grid, size)
    torch.testing.assert_close(
        model.data_preprocessor.restore(images), torch.stack([s.reconstruction for s in samples])
    )


def test_a_window_of_whole_squares_gets_the_codes_of_the_image():
    model = build().eval()
    images = torch.randn(1, 4, 18, 30)
    whole, part = model.encode(images), model.encode(images[..., 8:, :20])
    assert (whole.grid, part.grid) == ((5, 8), (3, 5))
    cut = whole.indices.unflatten(1, whole.grid)[:, 2:, :5]
    assert torch.equal(cut.flatten(1), part.indices)


def test_folded_latents_share_their_codes():
    quantizer = dict(type="ResidualQuantizer", codebook_size=8, embed_dims=6, depth=3, fold=(2, 2))
    sample = build(quantizer=quantizer).eval().test_step(batch((12, 20)))[0]
    assert sample.codes.shape == (2, 3, 3)
    assert sample.latents.shape == (6, 4, 6)
    assert sample.reconstruction.shape == (4, 12, 20)


def test_an_anchor_that_cannot_be_read_is_told_of_in_training(tmp_path):
    quantizer = dict(type="ResidualQuantizer", codebook_size=8, embed_dims=6, depth=2)
    anchor = dict(anchor=str(tmp_path / "absent.safetensors"), anchor_weight=0.5)
    model = build(quantizer=quantizer | anchor)
    with pytest.raises(ConfigError, match="model.quantizer: anchor: .*absent.safetensors"):
        model.train().run(torch.rand(1, 4, 8, 8))


def test_latents_that_are_not_finite_have_no_codes():
    model = build().eval()
    with torch.no_grad(), pytest.raises(DataError, match="not finite and have no codes"):
        model.encode(torch.full((1, 4, 8, 8), torch.nan))


def test_an_autoencoder_without_quantizer_has_latents_only():
    sample = build(quantizer=None).eval().test_step(batch())[0]
    assert "codes" not in sample and sample.latents.shape == (6, 4, 4)


# ------------------------------------------------------------------------------------ validity
def full_losses():
    return [
        dict(type="hook.PixelLoss"),
        dict(type="hook.PerceptualLoss", weight=0.1),
        dict(type="hook.GramLoss", weight=0.1),
        dict(type="hook.AlignmentLoss", in_channels=6, feature_channels=16, level=0),
        ADVERSARIAL,
    ]


@pytest.mark.parametrize("equivariant", [False, True])
def test_invalid_pixels_cost_nothing_whatever_they_hold(equivariant):
    import random

    valid = torch.ones(14, 16, dtype=torch.bool)
    valid[:5, 3:11] = False
    options = dict(frozen=FROZEN, losses=full_losses(), **GAN)
    if equivariant:
        options["equivariance"] = dict(latent_prob=1.0)
    results = []
    for fill in (0.0, 1e4):
        random.seed(3)
        model = build(**options)
        data = batch((14, 16), valid)
        for image in data["inputs"]:
            image[:, ~valid] = fill
        wrappers = optimizers(model)
        logs = [model.train_step(data, wrappers) for _ in range(2)][-1]
        results.append((logs, model.state_dict()))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert {"loss_pixel", "loss_alignment", "loss_adversarial", "discriminator_loss_lecam"} < {
        *results[0][0]
    }


def test_no_data_is_given_back():
    valid = torch.ones(16, 16, dtype=torch.bool)
    valid[2:9, :7] = False
    sample = build().eval().test_step(batch(valid=valid))[0]
    assert torch.equal(sample.valid_mask, valid)
    assert torch.equal(sample.reconstruction.isnan().all(0), ~valid)
    assert torch.equal(sample.reconstruction.isnan().any(0), ~valid)


# ------------------------------------------------------------------------------------ training
def test_each_optimizer_changes_its_part():
    model = build(losses=[dict(type="hook.PixelLoss"), ADVERSARIAL], **GAN)
    wrappers = optimizers(model)
    counts = [sum(len(g["params"]) for g in one.param_groups) for one in wrappers.values()]
    discriminator = {*model.discriminator.parameters()}
    assert counts == [
        sum(p not in discriminator for p in model.parameters()),
        len(discriminator),
    ]
    before = copy.deepcopy(model.state_dict())
    logs = model.train_step(batch(), wrappers)
    changed = {k.split(".")[0] for k, v in model.state_dict().items() if not v.equal(before[k])}
    assert changed == {"encoder", "decoder", "quantizer", "discriminator", "adversarial"}
    parts = [v for k, v in logs.items() if k.startswith("loss_")]
    assert logs["loss"] == pytest.approx(float(sum(parts)))
    assert all(not value.requires_grad for value in logs.values())


@pytest.mark.parametrize("first", [False, True])
def test_a_discriminator_starts_late_and_may_go_first(first):
    losses = [dict(type="hook.PixelLoss"), ADVERSARIAL | dict(start=2, warmup=1)]
    model = build(losses=losses, discriminator_first=first, **GAN)
    wrappers = optimizers(model)
    before = copy.deepcopy(model.discriminator.state_dict())
    for step in range(4):
        logs = model.train_step(batch(seed=step), wrappers)
        assert ("loss_adversarial" in logs) == (step >= 2)
        same = all(v.equal(before[k]) for k, v in model.discriminator.state_dict().items())
        assert same == (step < 2)
    assert [one.inner_count for one in wrappers.values()] == [4, 4]


@pytest.mark.parametrize("against", [False, True])
def test_accumulated_gradients_are_those_of_the_large_batch(against):
    large, options = batch(), dict(losses=[dict(type="hook.PixelLoss")])
    if against:
        options = copy.deepcopy(GAN) | options
        options["discriminator"]["norm"] = "group"  # statistics of a batch differ from a part's
        options["losses"].append(dict(type="hook.AdversarialLoss", weight=0.5))
    results = []
    for parts in (1, 3):
        # the quantizer's averages would move between the parts
        model = build(quantizer=None, **options)
        before = copy.deepcopy(model.state_dict())
        # steps of SGD have the size of the gradients
        sgd = dict(type="SGD", lr=0.1)
        wrapper = optimizers(model, optimizer=sgd, accumulative_counts=parts)
        step = 3 // parts
        for i in range(parts):
            data = {key: value[i * step : (i + 1) * step] for key, value in large.items()}
            model.train_step(data, wrapper)
        results.append({key: value - before[key] for key, value in model.state_dict().items()})
    assert all(change.abs().sum() > 0 for key, change in results[0].items() if "weight" in key)
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-6)


def test_losses_begin_and_the_entropy_is_boosted_by_their_schedules():
    quantizer = dict(type="LookupFreeQuantizer", bits=6)
    losses = [
        dict(type="hook.PixelLoss"),
        dict(type="hook.PixelLoss", norm="l2", start=1, weight=2.0),
    ]
    plain, boosted = (
        build(quantizer=quantizer, losses=losses, entropy_boost=boost) for boost in (None, (3.0, 2))
    )
    data = plain.data_preprocessor(batch(), True)["inputs"]
    run = plain.run(data)
    for step, factor in enumerate((4.0, 2.5, 1.0)):
        one, other = (model.autoencoder_losses(run, step)[0] for model in (plain, boosted))
        assert ("loss_pixel_2" in one) == (step >= 1)
        assert other["loss_entropy"].item() == pytest.approx(factor * one["loss_entropy"].item())


def test_equivariance_compares_turned_latents_with_turned_images():
    # A decoder that repeats latents, of an encoder that takes means, commutes with quarter turns.
    model = build(quantizer=None, equivariance=dict(latent_prob=1.0, scales=[1.0])).train()
    for network in (model.encoder, model.decoder):
        network.in_channels = network.out_channels = 4
    model.encoder.forward = nn.AvgPool2d(4).forward
    model.decoder.forward = nn.Upsample(scale_factor=4).forward
    images = torch.randn(2, 4, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    turned = set()
    for _ in range(12):
        run = model.run(images)
        torch.testing.assert_close(run.reconstruction, run.images)
        turned.add(tuple(run.images.shape[-2:]))
    assert turned == {(8, 12), (12, 8)}


def test_the_limit_of_adaptive_weights_grows_with_sums_over_an_image():
    weights = []
    for reduction in ("mean", "sum"):
        losses = [dict(type="hook.PixelLoss", reduction=reduction), full_losses()[3]]
        losses[1] = losses[1] | dict(weight=1.0, distance_margin=2.0, cosine_margin=2.0)  # met
        model = build(frozen=FROZEN, losses=losses)
        logs = model.train_step(batch(), optimizers(model))
        assert logs["loss_alignment"] == 0
        weights.append(float(logs["weight_alignment"]))
    assert weights == [100, pytest.approx(100 * 4 * 16 * 16)]


def test_without_a_reconstruction_loss_at_a_step_weights_are_the_factors():
    losses = [dict(type="hook.PixelLoss", end=1), full_losses()[3] | dict(weight=0.5)]
    model = build(frozen=FROZEN, losses=losses)
    wrapper = optimizers(model)
    logs = [model.train_step(batch(), wrapper) for _ in range(2)]
    assert "loss_pixel" in logs[0] and "loss_pixel" not in logs[1]
    assert float(logs[1]["weight_alignment"]) == 0.5


# ------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(decoder=dict(type="StubDecoder", out_channels=3)), "out_channels"),
        (dict(decoder=dict(type="StubDecoder", stride=8)), "stride"),
        (dict(decoder=dict(type="StubDecoder", in_channels=5)), "decoder.in_channels"),
        (dict(encoder=dict(type="StubEncoder", out_channels=5)), "quantizer"),
        (dict(losses=[dict(type="hook.GramLoss")]), "frozen"),
        (dict(losses=[ADVERSARIAL]), "discriminator is missing"),
        (GAN, "AdversarialLoss is missing"),
        (dict(losses=[ADVERSARIAL], **GAN), "reconstruction losses"),
        (
            dict(
                losses=[dict(type="hook.PixelLoss"), ADVERSARIAL],
                discriminator=dict(type="hook.PatchDiscriminator"),
            ),
            "discriminator.in_channels",
        ),
        (dict(losses=[dict(type="hook.PixelLoss", stages=True)]), "stages"),
        (
            dict(
                frozen=FROZEN,
                losses=[
                    dict(type="hook.PixelLoss"),
                    dict(type="hook.AlignmentLoss", in_channels=7, feature_channels=24),
                ],
            ),
            "in_channels of alignment",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(ConfigError, match=reason):
        build(**options)


def test_optimizers_and_bands_that_do_not_fit_are_refused():
    plain, against = build(), build(losses=[dict(type="hook.PixelLoss"), ADVERSARIAL], **GAN)
    for model, other in ((plain, against), (against, plain)):
        with pytest.raises(ConfigError, match="optim_wrapper"):
            model.train_step(batch(), optimizers(other))
    uneven = optimizers(against)
    uneven["discriminator"]._accumulative_counts = 2
    with pytest.raises(ConfigError, match="accumulate"):
        against.train_step(batch(), uneven)
    with pytest.raises(ConfigError, match="4 bands"):
        plain.encode(torch.zeros(1, 3, 8, 8))


# ------------------------------------------------------------------------- frozen features
@pytest.mark.parametrize("own", [False, True])
def test_stored_features_replace_the_frozen_network(own, monkeypatch):
    """Those of the encoder, too, if the encoder reads them."""
    if own:
        encoder = dict(
            type="FusionEncoder", backbone=FROZEN, level_channels=(16, 24), level_strides=(2, 4),
            mid_channels=(2, 4), out_channels=6, stride=4, projection="conv", in_channels=4,
        )  # fmt: skip
        options = dict(encoder=encoder)
    else:
        options = dict(frozen=FROZEN)
    alignment = dict(type="hook.AlignmentLoss", in_channels=6, feature_channels=24)
    options["losses"] = [dict(type="hook.PixelLoss"), alignment]
    model = build(quantizer=None, **options).train()
    valid = torch.ones(14, 16, dtype=torch.bool)
    valid[:5] = False
    data = model.data_preprocessor(batch((14, 16), valid), True)
    for index, sample in enumerate(data["data_samples"]):
        sample.set_metainfo(dict(sample_idx=index))
    expected = model.loss(**data)
    maps = model.frozen_maps(data["inputs"], data["data_samples"])
    model.stored_maps = lambda indexes: [one[list(indexes)] for one in maps]
    monkeypatch.setattr(model.frozen, "forward", None)
    found = model.loss(**data)
    assert found.keys() == expected.keys() and "loss_alignment" in found
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    # Of turned images, which have other features, they are computed.
    monkeypatch.undo()
    calls, forward = [], model.frozen.forward
    model.equivariance = Equivariance(scales=[0.5])
    monkeypatch.setattr(model.equivariance, "draw", lambda: (False, 0.5, 1))
    monkeypatch.setattr(model.frozen, "forward", lambda x: calls.append(x) or forward(x))
    model.loss(**data)
    assert {tuple(one.shape[-2:]) for one in calls} == {(8, 8)}


def test_features_are_computed_once_before_a_training(tiny, scenes, tmp_path, monkeypatch):
    config = tiny.write_codec_config(tmp_path / "codec.py", scenes, STORED)
    runner = build_runner(load_config(config, {"work_dir": str(tmp_path / "run")}))
    forward, seen = FrozenBackbone.forward, []

    def spied(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(FrozenBackbone, "forward", spied)
    names = [type(hook).__name__ for hook in runner.hooks]
    ordered = [
        next(i for i, name in enumerate(names) if part in name)
        for part in ("FrozenFeatureHook", "TimeLimitHook", "CheckpointHook")
    ]
    assert ordered == sorted(ordered)  # whatever the order in the config
    runner.train()
    assert sum(seen) == len(runner.train_dataloader.dataset)
    (path,) = (tmp_path / "run").glob("frozen_features-*.npy")
    stored, model = StoredFeatures(path), runner.model
    data = model.data_preprocessor(
        runner.train_dataloader.collate_fn([runner.train_dataloader.dataset[i] for i in (3, 1)])
    )
    (found,) = stored([3, 1])
    (expected,) = model.frozen_maps(data["inputs"], data["data_samples"])
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
