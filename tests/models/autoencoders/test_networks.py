"""Encoders and decoders between images and latents."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from hook.errors import ConfigError
from hook.models.autoencoders.magvit2 import AdaptiveNorm
from hook.models.autoencoders.progressive import BlurUpsample, NullKeyAttention
from hook.registry import MODELS

LOCAL = dict(embed_dims=8, norm="channel", attn_levels=(), mid_attention=False)


def build(name, **config):
    torch.manual_seed(0)
    return MODELS.build(dict(type=name, **config))


def touched(gradient):
    """First and last row, and first and last column, with a gradient."""
    found = gradient.abs().sum(dim=(0, 1)).nonzero()
    return [*found.min(dim=0).values.tolist(), *found.max(dim=0).values.tolist()]


@pytest.mark.parametrize(
    ("patch", "mult", "blocks", "mid"),
    [
        (4, (1, 2), 1, 2),
        (4, (1, 2), 1, 0),
        (1, (1, 1, 2), 0, 1),
        (2, (1,), 2, 2),
        (1, (2, 1), 2, 2),
    ],
)
def test_receptive_fields_are_those_of_the_gradients(patch, mult, blocks, mid):
    config = dict(patch_size=patch, channel_mult=mult, num_res_blocks=blocks, mid_blocks=mid)
    config |= LOCAL
    encoder = build("VQGANEncoder", in_channels=2, out_channels=3, z_channels=4, **config)
    before, after = encoder.receptive_field
    stride, middle = encoder.stride, 128 // encoder.stride
    images = torch.randn(1, 2, 256, 256, requires_grad=True)
    encoder(images)[0, :, middle, middle].sum().backward()
    first, last = 128 - before, 127 + stride + after
    assert first > 0 and last < 255
    assert touched(images.grad) == [first, first, last, last]

    decoder = build("VQGANDecoder", in_channels=3, out_channels=2, z_channels=4, **config)
    before, after = decoder.receptive_field
    latents = torch.randn(1, 3, 40, 40, requires_grad=True)
    square = slice(20 * stride, 21 * stride)
    decoder(latents)[..., square, square].sum().backward()
    first, last = 20 - before, 20 + after
    assert first > 0 and last < 39
    assert touched(latents.grad) == [first, first, last, last]


def test_windows_with_a_margin_code_and_decode_as_the_whole_scene():
    config = dict(patch_size=4, channel_mult=(1, 2), num_res_blocks=1, **LOCAL)
    encoder = build("VQGANEncoder", in_channels=4, out_channels=6, **config)
    decoder = build("VQGANDecoder", in_channels=6, out_channels=4, **config)
    assert encoder.stride == decoder.stride == 8
    scene = torch.randn(1, 4, 240, 64)
    margin = -(-max(encoder.receptive_field) // 8)  # in latents
    with torch.no_grad():
        latents = encoder(scene)
        window = encoder(scene[..., 96 - 8 * margin : 136 + 8 * margin, :])
        torch.testing.assert_close(
            window[..., margin:-margin, :], latents[..., 12:17, :], atol=1e-5, rtol=0
        )
        margin = max(decoder.receptive_field)
        image = decoder(latents[..., 14 - margin : 17 + margin, :])
        torch.testing.assert_close(
            image[..., 8 * margin : -8 * margin, :],
            decoder(latents)[..., 112:136, :],
            atol=1e-5,
            rtol=0,
        )


def test_norms_and_attention_over_positions_have_no_receptive_field():
    tiny = dict(embed_dims=8, channel_mult=(1, 1), num_res_blocks=1, num_groups=4)
    assert build("VQGANEncoder", **tiny).receptive_field is None
    assert build("MAGVIT2Decoder", **tiny).receptive_field is None
    attention = LOCAL | dict(mid_attention=True)
    assert build("VQGANEncoder", channel_mult=(1, 1), **attention).receptive_field is None


@pytest.mark.parametrize("family", ["VQGAN", "MAGVIT2"])
@pytest.mark.parametrize("blocks", [0, 1])
def test_any_bands_and_shapes_come_back(family, blocks):
    tiny = dict(embed_dims=8, channel_mult=(1, 2), num_res_blocks=blocks, num_groups=4)
    encoder = build(f"{family}Encoder", in_channels=5, out_channels=6, **tiny)
    decoder = build(f"{family}Decoder", in_channels=6, out_channels=5, **tiny)
    images = torch.randn(2, 5, 16, 24)
    latents = encoder(images)
    assert latents.shape == (2, 6, 8, 12)
    assert (encoder.out_channels, encoder.stride) == (6, 2)
    assert decoder(latents).shape == images.shape
    assert decoder.last_layer.shape[0] == 5


def test_adaptive_norm_of_one_position_is_finite():
    norm = AdaptiveNorm(3, 8, num_groups=2)
    assert norm(torch.randn(2, 8, 4, 4), torch.randn(2, 3, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    "options", [dict(norm="batch"), dict(num_groups=3), dict(attn_levels=(2,))]
)
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        build("VQGANEncoder", **dict(embed_dims=8, channel_mult=(1, 1), num_groups=4) | options)


FUSION = dict(level_channels=(12, 20), level_strides=(4, 8), mid_channels=(4, 3), stride=8)


@pytest.mark.parametrize("projection", ["attention", "conv"])
def test_fusion_joins_levels_on_the_grid_of_the_latents(projection):
    encoder = build("FusionEncoder", **FUSION, out_channels=6, projection=projection, num_layers=2)
    maps = [torch.randn(2, 12, 6, 4), torch.randn(2, 20, 3, 2)]
    moments = encoder(maps)
    assert moments.shape == (2, 6, 3, 2)
    moments.sum().backward()
    assert encoder.last_layer.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="level_channels"):
        encoder(maps[:1])


def test_fusion_refuses_levels_coarser_than_the_latents():
    with pytest.raises(ConfigError, match="level_strides"):
        build("FusionEncoder", **FUSION | dict(stride=4))


@pytest.mark.parametrize("stage_channels", [(16, 16, 8), (16, 16, 8, 8, 8)])
def test_progressive_decoder_gives_an_image_of_each_size(stage_channels):
    decoder = build(
        "ProgressiveDecoder",
        in_channels=3,
        out_channels=5,
        stride=8,
        stage_channels=stage_channels,
        latent_channels=(8, 4),
        attn_stages=1,
        decompress_factor=4,
        code_dims=8,
        head_dims=8,
        kernel_size=3,
    )
    latents = torch.randn(2, 3, 5, 3, requires_grad=True)  # odd: does not fill cells of stride 16
    images = decoder.pyramid(latents)
    strides = [2**i for i in reversed(range(len(stage_channels)))]
    assert [tuple(image.shape) for image in images] == [
        (2, 5, -(-40 // stride), -(-24 // stride)) for stride in strides
    ]
    images[-1].square().sum().backward()
    assert latents.grad.abs().amin(dim=(0, 1)).min() > 0
    assert decoder.last_layer.grad.abs().sum() > 0
    assert torch.equal(decoder(latents), images[-1])


def test_the_learned_key_is_seen_under_a_mask():
    block = NullKeyAttention(8, num_heads=2, head_dims=4, context_dims=6)
    x, context = torch.randn(1, 8, 2, 3), torch.randn(1, 4, 6)
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert torch.equal(block(x, context, nothing), block(x, torch.randn(1, 4, 6), nothing))


@pytest.mark.parametrize("size", [3, 4])
def test_the_blur_keeps_constants(size):
    block = BlurUpsample(8, 8, blur_size=size)
    torch.testing.assert_close(block.blur.sum(dim=(1, 2, 3)), torch.ones(8))


OFFICIAL = {
    "open_magvit2_f16": (49.8, 65.4),
    "ibq_f16": (46.8, 59.9),
    "rqvae_f32": (41.1, 59.0),
    "va_vae_f16d32": (28.4, 41.4),
    "vfm_vae_f16d32": (11.6, 49.9),
}


@pytest.mark.parametrize(("name", "millions"), OFFICIAL.items())
def test_base_configs_have_the_official_sizes(repo, name, millions):
    config = Config.fromfile(repo / f"configs/_base_/models/{name}.py").model
    if backbone := config.encoder.pop("backbone", None):  # its weights are downloaded
        config.frozen = backbone
    with torch.device("meta"), DefaultScope.overwrite_default_scope("hook"):
        model = MODELS.build(config)
    for network, expected in zip((model.encoder, model.decoder), millions, strict=True):
        sizes = {key: value.numel() for key, value in network.named_parameters()}
        # The papers do not count the 1x1 convolutions around IBQ's and RQ-VAE's quantizer.
        count = sum(size for key, size in sizes.items() if "quant_conv" not in key)
        assert round(count / 1e6, 1) == expected
    assert model.stride == (32 if name == "rqvae_f32" else 16)


def test_vfm_vae_learns_from_features_of_several_levels():
    levels = dict(level_channels=(24, 40, 112), level_strides=(2, 4, 8), mid_channels=(4, 8, 16))
    model = build(
        "TileAutoencoder",
        encoder=dict(
            type="FusionEncoder",
            backbone=dict(type="FrozenBackbone", weights=None, levels=(1, 2, 3), scale=2.0),
            out_channels=8,
            stride=8,
            **levels,
        ),
        quantizer=dict(type="GaussianQuantizer", embed_dims=4),
        decoder=dict(
            type="ProgressiveDecoder",
            in_channels=4,
            stride=8,
            stage_channels=(16, 16, 18),  # four groups do not divide 18
            latent_channels=(16,),
            attn_stages=1,
            num_blocks=1,
            decompress_factor=4,
            code_dims=16,
            head_dims=8,
        ),
        losses=[
            dict(type="PixelLoss"),
            dict(type="PixelLoss", stages=True, weight=0.1),
            dict(type="AlignmentLoss", in_channels=4, feature_channels=112),
        ],
    )
    losses = model(torch.rand(2, 3, 30, 48), mode="loss")
    assert sorted(losses) == ["loss_alignment", "loss_kl", "loss_pixel", "loss_pixel_2"]
    sum(losses.values()).backward()
    trained = {key for key, value in model.named_parameters() if value.grad is not None}
    assert {key.partition(".")[0] for key in trained} == {"encoder", "decoder", "losses"}
    assert not any("backbone" in key for key in model.state_dict())
