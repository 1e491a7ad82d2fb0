"""Series through packed latents or codes: facts from samples, clouds, hidden dates, refusals."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData

from hook.errors import ConfigError, DataError
from hook.evaluation.codebook_metric import CodebookMetric
from hook.evaluation.reconstruction_metric import ReconstructionMetric
from hook.registry import MODELS
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts

SIZES = dict(embed_dims=32, depth=1, num_heads=4, patch_size=4)
QUANTIZERS = {
    "kl": (dict(type="GaussianQuantizer", embed_dims=6), 12),
    "fsq": (dict(type="FiniteScalarQuantizer", levels=[4] * 3, groups=2), 6),
}
GROUPS, BANDS = [dict(bands=[0, 3, 1]), dict(bands=[2], factor=2)], [490, 560, 1610, 665]
META = dict(resolution=10.0, wavelengths=BANDS, img_path="a.tif")


def build(kind="kl", groups=GROUPS, tokenizer=None, decoder=None, **options):
    torch.manual_seed(0)
    quantizer, channels = QUANTIZERS[kind]
    own = SIZES | dict(in_channels=4, groups=groups) | (tokenizer or {})
    sides = [4] if groups is None else [len(group["bands"]) for group in groups]
    other = SIZES | dict(type="SpaceTimeDecoder", in_channels=6, out_channels=4, groups=sides)
    return MODELS.build(
        dict(
            type="SeriesAutoencoder",
            encoder=dict(type="SpaceTimeEncoder", tokenizer=own, out_channels=channels),
            quantizer=quantizer,
            decoder=other | dict(fills=True) | (decoder or {}),
        )
        | options
    )


def samples(*dates, valid=None, **meta):
    made = [ClsDataSample(metainfo=META | dict(dates=one) | meta) for one in dates]
    for row, sample in enumerate(made if valid is not None else ()):
        sample.valid_mask = PixelData(data=valid[row].to(torch.uint8))
    return made


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_series_train_through_latents_or_codes(kind):
    model = build(kind, hide=0.3).train()
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=5e-3))
    series = list(torch.rand(3, 3, 4, 8, 8))
    data = dict(inputs=series, data_samples=samples([0, 20, 40], [5, 6, 7], [0, 9, float("nan")]))
    history = [float(model.train_step(data, wrapper)["loss_pixel"]) for _ in range(60)]
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
    torch.manual_seed(1)
    sum(model.loss(torch.stack(series), data["data_samples"]).values()).backward()
    assert not [name for name, one in model.named_parameters() if one.grad is None]


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_predictions_are_measured_date_by_date(kind):
    model, dates = build(kind).eval(), [[0, 20, 40], [5, float("nan"), 7]]
    valid = torch.ones(2, 3, 10, 13, dtype=torch.bool)
    valid[0, 1, :4, :8] = False
    batch = torch.rand(2, 3, 4, 10, 13)
    predicted = model.predict(batch, samples(*dates, valid=valid))
    valid[1, 1] = False
    for sample, image, known in zip(predicted, batch, valid, strict=True):
        assert torch.allclose(sample.image[:, :, known.all(0)], image[:, :, known.all(0)])
        assert sample.reconstruction.isnan().any(dim=1).equal(~known)
        assert sample.valid_mask.equal(known)
    cells = [3 * (3 * 4 + 2 * 2) - 2, 2 * (3 * 4 + 2 * 2)]  # a cloud takes two patches of 10 m
    assert [len(sample.places) for sample in predicted] == cells
    metric = ReconstructionMetric(data_range=1)
    metric.process({}, [sample.to_dict() for sample in predicted])
    assert len(metric.results) == 2 and metric.evaluate(2)["PSNR"] > 0
    if kind == "fsq":
        assert [sample.codes.shape for sample in predicted] == [(1, count, 2) for count in cells]
        metric = CodebookMetric()
        metric.process({}, [sample.to_dict() for sample in predicted])
        assert metric.evaluate(2)["codes/positions"] == sum(cells)


def test_what_lies_under_clouds_or_is_hidden_changes_nothing():
    model = build().eval()
    images, valid = torch.rand(1, 3, 4, 8, 8), torch.ones(1, 3, 8, 8, dtype=torch.bool)
    valid[:, 0, :4] = False
    known = samples([0, 20, 40], valid=valid, hidden_dates=[2])
    first = model.predict(images, known)[0].reconstruction
    images[:, 2], images[:, 0, :, :4] = 7.0, float("nan")
    second = model.predict(images, known)[0].reconstruction
    assert torch.allclose(first, second, atol=1e-6, equal_nan=True)
    assert first[2].isfinite().all() and first[0, :, :4].isnan().all()
    later = model.predict(images, samples([0, 20, 93], valid=valid, hidden_dates=[2]))[0]
    assert (later.reconstruction[2] - second[2]).abs().max() > 1e-4  # the date matters


def test_without_fills_hidden_dates_are_not_decoded():
    model = build(decoder=dict(fills=False)).eval()
    (sample,) = model.predict(torch.rand(1, 3, 4, 8, 8), samples([0, 20, 40], hidden_dates=[1]))
    assert sample.reconstruction.isnan().flatten(1).all(dim=1).tolist() == [False, True, False]
    assert sample.valid_mask.flatten(1).any(dim=1).tolist() == [True, False, True]


def test_single_images_have_the_same_weights_and_latents():
    model = build(groups=None, tokenizer=dict(resolution=10.0)).eval()
    images = torch.rand(2, 4, 12, 8)
    packed, quantized = model.encode_series(images, ImageFacts(resolution=10.0))
    assert packed.counts == (6, 6)
    torch.testing.assert_close(quantized.latents, model.encode(images).latents)
    (one, other) = model.predict(images, [ClsDataSample(metainfo=META) for _ in images])
    assert one.reconstruction.shape == (4, 12, 8) and other.valid_mask.all()
    assert model(images, [ClsDataSample(metainfo=META) for _ in images]).shape == images.shape


def test_dates_that_training_hides():
    model = build(hide=0.9)
    dates = torch.tensor([[0.0, 1.0, torch.nan]] * 200)
    hidden = model.draw_hidden(ImageFacts(dates=dates))
    assert (~hidden[:, :2]).any(dim=1).all() and 0.6 < hidden.float().mean() < 0.9


@pytest.mark.parametrize(
    ("meta", "missing"),
    [
        (dict(dates=None), "without dates"),
        (dict(wavelengths=None), "without wavelengths"),
        (dict(resolution=None, dates=None), "without resolution and dates"),
    ],
)
def test_samples_that_lack_a_fact_are_refused(meta, missing):
    with pytest.raises(DataError, match=f"a.tif: {missing}"):
        build().predict(torch.rand(1, 2, 4, 8, 8), samples([0, 1], **meta))


def test_other_bands_are_refused():
    model = build()
    facts = ImageFacts(resolution=torch.tensor([10.0]), dates=torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ConfigError, match="do not fit model.encoder"):
        model.run(torch.rand(1, 2, 3, 8, 8), facts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(decoder=dict(groups=[2, 2])), "encoder and decoder differ"),
        (dict(decoder=dict(patch_size=8), tokenizer=dict(patch_size=(1, 4, 8))), "differ"),
        (dict(tokenizer=dict(positions="index")), "do not know where patches are"),
        (dict(hide=0.5, decoder=dict(fills=False)), "hide"),
        (dict(hide=1.0), "hide"),
        (dict(equivariance=dict()), "Equivariance"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_features_of_series_are_not_computed_before_a_training():
    with pytest.raises(ConfigError, match="FrozenFeatureHook"):
        build().frozen_maps(torch.zeros(1, 2, 4, 16, 16))
