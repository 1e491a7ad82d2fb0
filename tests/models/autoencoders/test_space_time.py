"""Encoder and decoder over space and time: maps of latents, packed series, refusals."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData

from hook.errors import ConfigError, DataError
from hook.registry import MODELS
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts, join_samples
from hook.tokenizers.packing import unpack_patches

SIZES = dict(embed_dims=32, depth=1, num_heads=4, patch_size=4)
QUANTIZERS = {
    "kl": (dict(type="GaussianQuantizer", embed_dims=6), 12, 12),
    "fsq": (dict(type="FiniteScalarQuantizer", levels=[4] * 3, groups=2), 6, 12),
}


def build(kind="kl", groups=None, decoder=None, **options):
    torch.manual_seed(0)
    quantizer, channels, proj = QUANTIZERS[kind]
    tokenizer = SIZES | dict(in_channels=4, resolution=10.0, groups=groups) | options
    encoder = dict(type="SpaceTimeEncoder", tokenizer=tokenizer, out_channels=channels)
    networks = SIZES | dict(type="SpaceTimeDecoder", in_channels=6, out_channels=4, resolution=10.0)
    return MODELS.build(
        dict(
            type="TileAutoencoder",
            encoder=encoder | dict(proj_channels=proj),
            quantizer=quantizer,
            decoder=networks | (decoder or {}),
        )
    )


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_any_size_through_latents_or_codes(kind):
    model = build(kind).eval()
    images = torch.rand(2, 4, 18, 13)
    quantized = model.encode(images)
    assert quantized.grid == (5, 4) and quantized.latents.shape == (2, 20, 6)
    decoded = model.decode(quantized.latents, quantized.grid, (18, 13))
    assert decoded.shape == images.shape
    one = model.encode(images[1:])
    assert torch.allclose(quantized.latents[1:], one.latents, atol=2e-6)
    assert torch.allclose(decoded[1:], model.decode(one.latents, (5, 4), (18, 13)), atol=2e-6)


def test_maps_of_latents_are_of_one_size_of_pixels():
    model, images = build().eval(), torch.rand(1, 4, 16, 16)
    for metres, fits in ((10.0, True), (10.2, True), (None, True), (0.3, False)):
        sample = ClsDataSample(metainfo=dict(resolution=metres, img_path="a.tif"))
        if fits:
            model.predict(images, [sample])
            continue
        with pytest.raises(DataError, match=r"a\.tif: pixels of another size"):
            model.predict(images, [sample])


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_training_lowers_the_error(kind):
    model = build(kind).train()
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=5e-3))
    data = dict(inputs=[torch.rand(4, 8, 8) for _ in range(4)])
    data["data_samples"] = [ClsDataSample() for _ in range(4)]
    history = [float(model.train_step(data, wrapper)["loss_pixel"]) for _ in range(30)]
    assert history[-1] < 0.8 * history[0]
    sum(model.loss(torch.rand(2, 4, 8, 8)).values()).backward()
    assert not [name for name, one in model.named_parameters() if one.grad is None]


def test_no_data_changes_no_latents_of_other_patches():
    model = build().eval()
    images = torch.rand(1, 4, 16, 16)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[:, :, 8:] = False
    latents = model.encode(images, ImageFacts(valid)).latents.unflatten(1, (4, 4))
    cropped = model.encode(images[..., :8]).latents.unflatten(1, (4, 2))
    assert torch.allclose(latents[:, :, :2], cropped, atol=2e-6)
    sample = ClsDataSample()
    sample.valid_mask = PixelData(data=valid.to(torch.uint8))
    (decoded,) = model.predict(images, [sample])
    assert decoded.reconstruction.isnan().any(dim=0).equal(~valid[0])


def test_packed_series_of_band_groups_equal_one_by_one():
    groups, bands = [dict(bands=[0, 1, 2]), dict(bands=[3], factor=2)], [490, 560, 665, 1610]
    model = build(groups=groups, wavelengths=bands, decoder=dict(groups=[3, 1])).eval()
    series = [torch.rand(1, 3, 4, 16, 16), torch.rand(1, 2, 4, 8, 24)]
    facts = [
        ImageFacts(dates=torch.tensor([[0.0, 20.0, torch.nan]])),
        ImageFacts(dates=torch.tensor([[5.0, 300.0]])),
    ]

    def decode(packed):
        latents = model.quantizer(packed.values[None]).latents[0]
        parts = model.decoder.decode(packed.with_values(latents))
        return [unpack_patches(part, (1, 4, 4), torch.nan) for part in parts]

    encoded = [model.encoder.encode(*pair) for pair in zip(series, facts, strict=True)]
    together = decode(join_samples(encoded))
    assert [[tuple(x.shape) for x in group] for group in together] == [
        [(3, 3, 16, 16), (2, 3, 8, 24)],
        [(3, 1, 8, 8), (2, 1, 4, 12)],
    ]
    for row, packed in enumerate(encoded):
        for group, alone in zip(together, decode(packed), strict=True):
            assert torch.allclose(group[row], alone[0], atol=5e-6, equal_nan=True)
    assert together[0][0][2].isnan().all() and together[0][0][:2].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(type="SpaceTimeDecoder", groups=[3, 2]), "groups"),
        (dict(type="SpaceTimeDecoder", positions="pixels"), "positions"),
        (dict(type="SpaceTimeDecoder", num_heads=5), "divisible by num_heads"),
        (dict(type="SpaceTimeDecoder", norm="none"), "norm"),
        (dict(type="SpaceTimeEncoder", proj_channels=3), "fewer than out_channels"),
        (dict(type="SpaceTimeEncoder", tokenizer=dict(depth=1, num_heads=5)), "num_heads"),
    ],
)
def test_options_that_do_not_fit(options, message):
    defaults = dict(tokenizer=SIZES, out_channels=6)
    if options["type"] == "SpaceTimeDecoder":
        defaults = SIZES | dict(in_channels=6, out_channels=4)
    with pytest.raises(ConfigError, match=message):
        MODELS.build(defaults | options)


def test_images_without_resolution():
    model = build(resolution=None)
    with pytest.raises(DataError, match="without resolution"):
        model.encode(torch.rand(1, 4, 8, 8))
    facts = ImageFacts(resolution=torch.tensor([20.0]))
    assert model.encoder.encode(torch.rand(1, 4, 8, 8), facts).counts == (4,)


def test_what_has_no_map_of_latents():
    with pytest.raises(ConfigError, match="no map of latents"):
        build(groups="each", wavelengths=[1, 2, 3, 4]).encode(torch.rand(1, 4, 8, 8))
    with pytest.raises(ConfigError, match="one band group of factor 1"):
        build(groups=[dict(bands=range(4), factor=2)]).encode(torch.rand(1, 4, 8, 8))
    model = build(decoder=dict(resolution=None))
    with pytest.raises(ConfigError, match="cannot decode a map"):
        model.decode(torch.rand(1, 4, 6), (2, 2))
