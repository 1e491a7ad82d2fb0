"""Which models code scenes, and packed files of codes."""

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from hook.errors import ConfigError, DataError
from hook.inference.codes import code_grid, codec_digest
from hook.inference.packed import pack_file, unpacked
from hook.models.autoencoders.blocks import Network
from hook.registry import MODELS

NETWORK = dict(embed_dims=8, channel_mult=(1, 2), num_res_blocks=1, patch_size=2, num_groups=4)
LOCAL = dict(norm="channel", attn_levels=(), mid_attention=False, mid_blocks=0)


def build(quantizer=None, encoder=None, decoder=None):
    quantizer = quantizer or dict(type="VectorQuantizer", codebook_size=16, embed_dims=8)
    encoder, decoder = LOCAL | (encoder or {}), LOCAL | (decoder or {})
    encoder = dict(type="hook.VQGANEncoder", in_channels=2, out_channels=8, **NETWORK) | encoder
    decoder = dict(type="hook.VQGANDecoder", in_channels=8, out_channels=2, **NETWORK) | decoder
    model = dict(type="hook.TileAutoencoder", encoder=encoder, quantizer=quantizer, decoder=decoder)
    model["data_preprocessor"] = dict(type="hook.CodecDataPreProcessor", value_range=(0, 255))
    return MODELS.build(model).eval()


def test_the_margins_are_what_a_code_and_a_pixel_depend_on():
    model = build()
    grid = code_grid(model)
    assert grid.stride == 4
    size = 4 * (2 * grid.margin + 1)
    image = torch.randn(1, 2, size, size, requires_grad=True)
    model.encoder(image)[0, :, grid.margin, grid.margin].square().sum().backward()
    seen = image.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.min() < 4 or seen.max() >= size - 4  # no margin is wasted
    folded = dict(type="ResidualQuantizer", codebook_size=16, embed_dims=8, depth=2, fold=(2, 2))
    assert code_grid(build(folded)).stride == 8


class Shifted(nn.Module):
    """Attention in disguise: nothing of its class says so."""

    def forward(self, x):
        return x + x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    "parts, words",
    [
        (dict(encoder=dict(norm="group")), r"encoder\.down.*norm1 \(GroupNorm\)"),
        (dict(encoder=dict(attn_levels=(-1,))), r"encoder\.down.*attn.*\(AttnBlock\)"),
        (dict(decoder=dict(norm="group")), r"decoder\..*\(GroupNorm\)"),
        (dict(decoder=dict(mid_attention=True, mid_blocks=1)), r"decoder\.mid\.attn_1"),
    ],
)
def test_what_connects_all_positions_is_refused_by_its_name(parts, words):
    with pytest.raises(ConfigError, match=words):
        code_grid(build(**parts))


def test_a_module_is_judged_by_what_it_does():
    model = build()
    model.encoder.quant_conv = Shifted()
    with pytest.raises(ConfigError, match=r"encoder\.quant_conv \(Shifted\)"):
        code_grid(model)
    model = build()
    model.decoder.up["1"]["block"][0].dropout = nn.InstanceNorm2d(16)
    with pytest.raises(ConfigError, match=r"dropout \(InstanceNorm2d\)"):
        code_grid(model)


def test_models_without_codes_or_a_known_field_are_refused():
    with pytest.raises(ConfigError, match="GaussianQuantizer has no codes"):
        code_grid(build(dict(type="GaussianQuantizer", embed_dims=4), decoder=dict(in_channels=4)))
    with pytest.raises(ConfigError, match="Linear has no codes"):
        code_grid(nn.Linear(1, 1))
    model = build()

    class Plain(nn.Module):
        in_channels = 2

        def __init__(self, network: Network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x)

    model.encoder = Plain(model.encoder)
    with pytest.raises(ConfigError, match="receptive field is not known"):
        code_grid(model)


def test_the_digest_is_of_all_that_codes_depend_on():
    model = build()
    model.dataset_meta = {}
    first = codec_digest(model)
    assert codec_digest(model) == first
    model.data_preprocessor.value_range = (0, 1)
    second = codec_digest(model)
    model.dataset_meta = {"scale": 0.5}
    third = codec_digest(model)
    with torch.no_grad():
        model.decoder.conv_out.bias[0] += 1
    assert len({first, second, third, codec_digest(model)}) == 4


@pytest.mark.parametrize("chunk", [1 << 22, 100])
def test_packed_codes_come_back_and_truncated_ones_do_not(
    write_scene, rng, tmp_path, monkeypatch, chunk
):
    pytest.importorskip("constriction", reason="the codecs extra is not installed")
    monkeypatch.setattr("hook.inference.packed._CHUNK", chunk)
    values = np.stack([rng.binomial(16, 0.3, (40, 30)), rng.integers(0, 256, (40, 30))])
    path = write_scene(values.astype(np.uint8), nodata=16)
    with rasterio.open(path, "r+") as target:
        target.update_tags(HOOK_SIZES="[16]", HOOK_MODEL="m")
    (folder := tmp_path / "unpacked").mkdir()
    before = path.stat().st_size
    pack_file(path)
    assert path.stat().st_size < before
    with unpacked(path, folder) as (found, _), rasterio.open(found) as source:
        assert found != path and np.array_equal(source.read(), values)
        assert source.nodata == 16 and source.tags()["HOOK_MODEL"] == "m"
        assert source.crs.to_epsg() == 32645 and source.transform.a == 0.5
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(DataError, match="not a complete file"), unpacked(path, folder):
        raise AssertionError
    refused = 0
    for at in range(4, len(whole), 7):
        path.write_bytes(_changed(whole, at))
        try:
            with unpacked(path, folder) as (found, _), rasterio.open(found) as source:
                assert np.array_equal(source.read(), values)  # a bit that zlib does not use
        except DataError as error:
            assert "not a complete file" in str(error)
            refused += 1
    assert refused > 0.95 * len(range(4, len(whole), 7))


def _changed(content, at):
    return content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :]
