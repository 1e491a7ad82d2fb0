"""Images through slots alone: codes of tokens, three ways to mix them, validity, refusals."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData

from hook.errors import ConfigError, DataError
from hook.evaluation.codebook_metric import CodebookMetric
from hook.inference.codes import code_grid
from hook.registry import MODELS
from hook.structures import ClsDataSample

TOKENIZER = dict(type="hook.HookTokenizer", preset="fast", size="tiny", img_size=32, embed_dims=32)
CODES = dict(type="ResidualQuantizer", codebook_size=16, embed_dims=8, depth=2, restart=False)


def build(mixing="cross", tokenizer=(), quantizer=None, decoder=(), **options):
    torch.manual_seed(0)
    tokenizer = TOKENIZER | dict(num_tokens=6, assign="gru") | dict(tokenizer)
    own = dict(type="hook.SlotDecoder", in_channels=8, out_channels=3, embed_dims=32, depth=1)
    return MODELS.build(
        dict(
            type="hook.SlotAutoencoder",
            encoder=dict(type="hook.SlotEncoder", tokenizer=tokenizer, out_channels=8),
            quantizer=quantizer,
            decoder=own | dict(mixing=mixing) | dict(decoder),
            losses=[dict(type="hook.PixelLoss", norm="l2")],
        )
        | options
    )


def halves():
    """Images of two colours with a border at a place of their own."""
    draws = torch.Generator().manual_seed(0)
    images = torch.empty(8, 3, 32, 32)
    for image in images:
        left, right = torch.rand(2, 3, 1, 1, generator=draws)
        border = 4 * int(torch.randint(2, 7, (), generator=draws))
        image[:], image[:, :, :border] = right, left
    return images


@pytest.mark.parametrize("mixing", ["position", "cross", "ids"])
@pytest.mark.parametrize("quantizer", [None, CODES])
def test_slots_learn_to_tell_an_image(mixing, quantizer):
    objects = dict(preset="objects", num_tokens=4, assign=None) if mixing == "ids" else {}
    options = {} if mixing == "ids" else dict(num_slots=6)
    model = build(mixing, objects, quantizer, options).train()
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=3e-3))
    data = dict(inputs=list(halves()))
    history = [float(model.train_step(data, wrapper)["loss_pixel"]) for _ in range(60)]
    assert sum(history[-5:]) < 0.5 * sum(history[:5])


def test_predictions_hold_codes_and_the_map_of_tokens():
    model = build(quantizer=CODES).eval()
    images = torch.rand(2, 3, 30, 41)
    samples = [ClsDataSample(metainfo=dict(img_path=name)) for name in "ab"]
    valid = torch.ones(30, 41, dtype=torch.uint8)
    valid[:9] = 0
    samples[1].valid_mask = PixelData(data=valid)
    with torch.no_grad():
        first, second = model.predict(images, samples)
    for found in (first, second):
        assert found.reconstruction.shape == (3, 30, 41) and found.latents.shape == (8, 6, 1)
        assert found.codes.shape == (1, 6, 2) and found.token_ids.shape == (8, 11)
        assert found.codebook_sizes == (16, 16)
    assert first.token_ids.min() >= 0
    assert (second.token_ids[:2] == -1).all() and (second.token_ids[2:] >= 0).all()
    assert second.reconstruction[:, :9].isnan().all()
    assert second.reconstruction[:, 9:].isfinite().all()
    metric = CodebookMetric()
    second.valid_mask[:, :20] = False  # where the first slots would be if they had places
    metric.process({}, [first.to_dict(), second.to_dict()])
    use = metric.compute_metrics(metric.results)
    assert use["positions"] == 2 * 6


def test_regions_without_a_cell_have_no_code():
    objects = dict(preset="objects", num_tokens=9, assign=None)
    model = build("ids", objects, CODES).eval()
    with torch.no_grad():
        small, large = (model.predict(torch.rand(1, 3, side, side))[0] for side in (8, 32))
    assert small.token_ids.unique().tolist() == [0, 1, 2, 3] and small.codes.shape == (1, 4, 2)
    assert large.codes.shape == (1, 9, 2)
    with pytest.raises(DataError, match="fewer regions than slots"):
        model.encode(torch.rand(1, 3, 8, 8))


def test_slots_know_the_size_of_pixels():
    model = build(tokenizer=dict(resolution=10.0)).eval()
    images = list(torch.rand(1, 3, 32, 32))

    def latents(metres):
        sample = ClsDataSample(metainfo=dict(resolution=metres))
        data = model.data_preprocessor(dict(inputs=images, data_samples=[sample]))
        with torch.no_grad():
            return model.predict(**data)[0].latents

    assert torch.equal(latents(10.0), latents(None))
    assert (latents(10.0) - latents(0.3)).abs().max() > 1e-3


def test_an_image_without_data_has_no_codes():
    model = build(quantizer=CODES).train()
    samples = [ClsDataSample(metainfo=dict(img_path=name)) for name in "ab"]
    samples[1].valid_mask = PixelData(data=torch.zeros(1, 32, 32, dtype=torch.uint8))
    images = torch.rand(2, 3, 32, 32)
    sum(model.loss(images, samples).values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        first, second = model.eval().predict(images, samples)
    assert first.codes.shape == (1, 6, 2) and second.codes.shape == (1, 0, 2)
    with pytest.raises(ConfigError, match="pixels without data"):
        build(tokenizer=dict(preset="reference", size="base", assign=None, num_iterations=1))


def test_invalid_pixels_cost_and_change_nothing():
    model = build().eval()
    images, valid = torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool)
    valid[:, :, 20:] = False
    other = images.clone()
    other[..., 20:] = 9.0
    with torch.no_grad():
        one, two = (model.run(x, valid) for x in (images, other))
    assert torch.equal(one.reconstruction[..., :20], two.reconstruction[..., :20])
    assert torch.equal(one.reconstruction[..., 20:], torch.zeros(1, 3, 32, 12))


@pytest.mark.parametrize("mixing", ["cross", "ids"])
def test_latents_decode_to_what_is_predicted(mixing):
    model = build(mixing, quantizer=CODES).eval()
    images = torch.rand(2, 3, 30, 41)
    with torch.no_grad():
        quantized = model.encode(images)
        assert quantized.grid is None and (quantized.token_ids is None) == (mixing == "cross")
        rest = quantized.grid, (30, 41), quantized.token_ids
        decoded = model.decode(quantized.latents, *rest)
        assert torch.allclose(decoded, model(images, mode="tensor"), atol=1e-5)
    if mixing == "ids":
        with pytest.raises(ConfigError, match="map of tokens"):
            model.decode(quantized.latents, None, (30, 41))


def test_features_of_cells_are_aligned():
    frozen = dict(type="hook.FrozenBackbone", weights=None, levels=(1,), mean=0.0, std=1.0)
    loss = dict(type="hook.AlignmentLoss", in_channels=32, feature_channels=24, level=0)
    losses = [dict(type="hook.PixelLoss"), loss]
    model = build(losses=losses, frozen=frozen, decoder=dict(feature_pool=2)).train()
    assert model.run(torch.rand(2, 3, 32, 40)).latents.shape == (2, 32, 4, 5)
    losses = model.loss(torch.rand(2, 3, 32, 32))
    losses["loss_alignment"].backward()
    assert model.encoder.proj.weight.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="aligned features"):
        build(losses=[loss | dict(in_channels=8)], frozen=frozen)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(mixing="other"), "mixing"),
        (dict(tokenizer=dict(with_cls_token=True)), "class token"),
        (dict(decoder=dict(num_slots=5)), "fewer than the tokens"),
        (dict(equivariance=dict()), "Equivariance"),
        (dict(quantizer=CODES | dict(fold=(2, 1))), "fold"),
        (dict(decoder=dict(in_channels=7)), "differ"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        build(**change)


def test_patches_are_no_slots():
    patches = dict(type="hook.PatchEmbedTokenizer", img_size=32, patch_size=4, embed_dims=32)
    with pytest.raises(ConfigError, match="cannot be slots"):
        MODELS.build(dict(type="hook.SlotEncoder", tokenizer=patches, out_channels=8))


def test_slots_are_no_codes_of_a_place():
    model = build(quantizer=CODES)
    with pytest.raises(ConfigError, match="no place in a raster"):
        code_grid(model)
    parts = dict(encoder=dict(type="hook.SlotEncoder", tokenizer=TOKENIZER, out_channels=8))
    parts["decoder"] = dict(type="hook.SlotDecoder", in_channels=8, out_channels=3)
    network = dict(type="hook.CodeTransformer", embed_dims=16, depth=1, num_heads=2)
    codec = dict(type="hook.SlotAutoencoder", quantizer=CODES, **parts)
    with pytest.raises(ConfigError, match="no map of codes"):
        MODELS.build(dict(type="hook.TileGenerator", codec=codec, network=network, tile_size=32))
