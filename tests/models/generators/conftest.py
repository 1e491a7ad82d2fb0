"""Tiny autoencoders, which generators are built over."""

import pytest
import torch

from hook.registry import MODELS

NETWORK = dict(embed_dims=8, channel_mult=(1, 2), num_res_blocks=1, mid_blocks=0)
NETWORK |= dict(attn_levels=(), mid_attention=False, patch_size=2, norm="channel")
QUANTIZERS = {
    "CodeTransformer": dict(type="VectorQuantizer", codebook_size=12, embed_dims=6),
    "FactorizedTransformer": dict(type="LookupFreeQuantizer", bits=6, factors=(2, 4)),
    "DepthTransformer": dict(type="ResidualQuantizer", codebook_size=9, embed_dims=6, depth=2),
    "FlatTransformer": dict(type="ResidualQuantizer", codebook_size=9, embed_dims=6, depth=2),
    "LightningDiT": dict(type="GaussianQuantizer", embed_dims=6),
}


@pytest.fixture(scope="session")
def codec_config():
    """A function: name of a network -> config of an autoencoder of three bands, stride 4."""

    def config(network="CodeTransformer", **quantizer):
        channels = 12 if network == "LightningDiT" else 6
        return dict(
            type="hook.TileAutoencoder",
            data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 255)),
            encoder=dict(type="hook.VQGANEncoder", in_channels=3, out_channels=channels, **NETWORK),
            quantizer=QUANTIZERS[network] | quantizer,
            decoder=dict(type="hook.VQGANDecoder", in_channels=6, out_channels=3, **NETWORK),
        )

    return config


@pytest.fixture
def make_generator(codec_config):
    """A function: name of a network and options -> a generator of tiles of 16 x 16 pixels."""

    def make(kind="CodeTransformer", quantizer=None, **options):
        torch.manual_seed(0)
        sizes = dict(embed_dims=16, depth=2, num_heads=2)
        options = dict(tile_size=16, condition="class", num_classes=3) | options
        cfg = dict(
            type="hook.TileGenerator",
            codec=codec_config(kind, **(quantizer or {})),
            network=dict(type=f"hook.{kind}", **sizes),
        )
        model = MODELS.build(cfg | options)
        if kind == "LightningDiT":  # as measured
            model.feature_mean.normal_()
            model.feature_std.uniform_(0.5, 2)
        return model.eval()

    return make
