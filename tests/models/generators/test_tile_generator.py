"""TileGenerator: targets, conditions, samples as images, refusals."""

import math

import pytest
import torch
from mmengine.structures import PixelData

from hook.engine.tta import apply_view
from hook.errors import CheckpointError, ConfigError
from hook.structures import ClsDataSample

OF_BYTES = dict(atol=1e-3, rtol=0)  # images from 0 to 255
KINDS = ["CodeTransformer", "FactorizedTransformer", "DepthTransformer", "FlatTransformer"]
KINDS += ["LightningDiT"]


def batch(size=(16, 16), labels=(0, 2, 1), masks=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.rand(3, *size, generator=generator) * 255 for _ in labels]
    samples = []
    for k, label in enumerate(labels):
        sample = ClsDataSample(metainfo=dict(img_path=f"{k}.tif", sample_idx=k))
        if label is not None:
            sample.gt_label = label
        if masks is not None:
            sample.gt_sem_seg = PixelData(data=masks[k][None])
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def passes(model, data):
    batch = model.data_preprocessor(data, False)
    return batch["inputs"], batch["data_samples"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_word_chooses_the_network(make_generator, kind):
    model = make_generator(kind)
    assert type(model.network).__name__ == kind
    inputs, samples = passes(model, batch())
    targets = model(inputs, samples, mode="tensor")
    assert targets.shape[:2] == (3, 16)
    losses = model.train()(inputs, samples, mode="loss")
    assert not model.codec.training and all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    frozen = {id(weight) for weight in model.codec.parameters()}
    for key, weight in model.named_parameters():
        assert (weight.grad is None) == (id(weight) in frozen), key
    sampled = model.sample(2, condition=[0, 2], seed=4)
    images = model.decode(sampled)
    assert images.shape == (2, 3, 16, 16) and 0 <= images.min() and images.max() <= 255
    assert model.training  # as before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sampled_is_what_the_autoencoder_has(make_generator, kind):
    """The codes of images, given to the decoder as samples are, give their reconstructions."""
    model = make_generator(kind)
    inputs, samples = passes(model, batch())
    targets = model(inputs, samples, mode="tensor")
    if kind == "LightningDiT":
        targets = targets * model.feature_std + model.feature_mean
    elif kind == "CodeTransformer":
        targets = targets[..., 0]
    with torch.no_grad():
        expected = model.codec(inputs, mode="tensor")
    expected = model.data_preprocessor.restore(expected)
    torch.testing.assert_close(model.decode(targets), expected, **OF_BYTES)


def test_tiles_of_any_size_and_folded_codes(make_generator):
    model = make_generator("DepthTransformer", quantizer=dict(fold=(2, 1)), tile_size=(18, 10))
    assert (model.network.grid, model.latent_grid) == ((3, 3), (6, 3))
    inputs, samples = passes(model, batch((18, 10)))
    assert model(inputs, samples, mode="tensor").shape == (3, 9, 2)
    assert model.decode(model.sample(2, condition=1)).shape == (2, 3, 18, 10)


def test_a_tile_depends_on_seed_and_number_alone(make_generator):
    model = make_generator(condition="none", num_classes=0)
    whole = torch.cat([*model.generate(5, seed=3, progress=False)])
    parts = [*model.generate(5, seed=3, batch_size=2, progress=False)]
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(parts), whole, **OF_BYTES)
    (last,) = model.generate(1, seed=3, first=4, progress=False)
    torch.testing.assert_close(last, whole[4:], **OF_BYTES)
    assert not torch.equal(torch.cat([*model.generate(5, seed=4, progress=False)]), whole)


def test_features_of_a_frozen_network_are_stored_and_turned(make_generator):
    frozen = dict(type="hook.FrozenBackbone", weights=None, levels=(0,), scale=2.0)
    alignment = dict(block=0, feature_channels=16)
    sizes = dict(type="hook.LightningDiT", embed_dims=16, depth=2, num_heads=2)
    network = dict(network=sizes | dict(alignment=alignment), frozen=frozen, turn=True)
    model = make_generator("LightningDiT", **network).train()
    inputs, samples = passes(model, batch())
    assert model.frozen.network is None  # not built to draw tiles
    *views, features = model.frozen_maps(inputs, samples)
    assert len(views) == 8 and features.shape == (3, 16, 16, 16)
    torch.testing.assert_close(features, model.frozen.network(inputs)[-1])
    found = model._features(inputs, samples, [0, 5, 2])
    for row, number in enumerate((0, 5, 2)):
        assert torch.equal(found[row], apply_view(features[row], model._views[number]))
    model.stored_maps = lambda indexes: [maps[indexes] for maps in (*views, features)]
    assert torch.equal(model._features(inputs.zero_(), samples, [0, 5, 2]), found)
    losses = model.loss(*passes(model, batch()))
    assert 0 < losses["loss_alignment"] <= 1  # the weight is a half
    assert not any("frozen" in key for key in model.state_dict())
    both = model.build_frozen()
    assert {*both.state_dict()} > {f"codec.{key}" for key in model.codec.state_dict()}
    for wrong in (dict(network=sizes, frozen=frozen), network | dict(frozen=None)):
        with pytest.raises(ConfigError, match="belong together"):
            make_generator("LightningDiT", **wrong)


# ------------------------------------------------------------------------------------ conditions
def test_maps_are_the_most_frequent_known_class_of_a_position(make_generator):
    model = make_generator(condition="map")
    mask = torch.full((16, 16), 255)
    mask[:4, :4] = torch.tensor([0, 0, 0, 1])  # twelve and four
    mask[4:8, :4] = 2
    mask[4:7, :4] = 255  # the rest is known
    labels = model.conditions(mask[None])
    expected = torch.full((4, 4), 3)  # unknown
    expected[0, 0], expected[1, 0] = 0, 2
    assert torch.equal(labels[0], expected)


def test_one_condition_may_hold_for_all_tiles(make_generator):
    model = make_generator(condition="map")
    mask = torch.randint(3, (16, 16))
    same = model.sample(3, condition=mask, seed=1)
    assert torch.equal(same, model.sample(3, condition=mask.repeat(3, 1, 1), seed=1))
    (part,) = model.generate(3, condition=mask, seed=1, progress=False)
    torch.testing.assert_close(part, model.decode(same), **OF_BYTES)
    of_class = make_generator()
    assert torch.equal(of_class.sample(2, 1), of_class.sample(2, [1, 1]))


def test_images_without_a_label_have_an_unknown_class(make_generator):
    model = make_generator()
    inputs, samples = passes(model, batch(labels=(0, None, 1)))
    assert model._batch(inputs, samples, [0] * 3)[1].tolist() == [0, 3, 1]
    inputs, samples = passes(make_generator(), batch(labels=(None, None)))
    with pytest.warns(UserWarning, match="learns no condition"):
        make_generator().train().loss(inputs, samples)


def test_views_turn_images_and_maps_alike(make_generator):
    model = make_generator(condition="map", turn=True)
    masks = [torch.randint(3, (16, 16)) for _ in range(3)]
    inputs, samples = passes(model, batch(masks=masks))
    assert len(model._views) == 8
    views = model.frozen_maps(inputs, samples)
    for number in (0, 3, 6):
        codes, labels, valid = model._batch(inputs, samples, [number] * 3)
        view = model._views[number]
        turned = apply_view(inputs, view)
        expected = model.codec.encode(turned).indices
        assert torch.equal(codes[..., 0], expected) and valid is None
        assert torch.equal(views[number].flatten(2)[:, 0], expected)
        assert torch.equal(labels, model.conditions(apply_view(torch.stack(masks), view)))


def test_stored_codes_are_those_of_the_image_and_view(make_generator):
    model = make_generator(turn=True).train()
    inputs, samples = passes(model, batch())
    stored = [maps[[2, 0, 1]] for maps in model.frozen_maps(inputs, samples)]  # another order
    model.stored_maps = lambda indexes: [maps[[[1, 2, 0][i] for i in indexes]] for maps in stored]
    found = model._batch(inputs.zero_(), samples, [0, 5, 2])[0]  # images are not looked at
    expected = model.stored_maps([0, 1, 2])
    for row, view in enumerate((0, 5, 2)):
        assert torch.equal(found[row], expected[view][row].flatten(1).mT)
    # validation has other images
    assert torch.equal(model.eval()._batch(inputs, samples, [0] * 3)[0], model(inputs, samples))


def test_positions_without_data_are_not_learned(make_generator):
    model = make_generator("FactorizedTransformer")
    data = batch(labels=(0,))
    valid = torch.ones(1, 16, 16, dtype=torch.uint8)
    valid[:, :, 7:] = 0
    data["data_samples"][0].valid_mask = PixelData(data=valid)
    inputs, samples = passes(model, data)
    positions = model._batch(inputs, samples, [0])[2].unflatten(1, (4, 4))
    assert positions[0, :, :2].all() and not positions[0, :, 2:].any()


# ------------------------------------------------------------------------------------ predictions
def test_bits_are_those_of_the_cross_entropy(make_generator):
    model = make_generator("DepthTransformer")
    data = batch()
    (inputs, samples), predicted = passes(model, data), model.test_step(data)
    losses = torch.stack([*model.loss(inputs, samples).values()])
    bits = torch.stack([sample.bits for sample in predicted])
    assert bits.shape == (3, 4, 4, 2) and predicted[0].codes.shape == (4, 4, 2)
    torch.testing.assert_close(bits.mean() * math.log(2), losses.sum())
    assert predicted[1].img_path == "1.tif" and predicted[1].codebook_sizes == (9, 9)


# ------------------------------------------------------------------------------------ refusals
def test_parts_that_do_not_fit_are_refused(make_generator, codec_config):
    flow = dict(type="hook.LightningDiT", embed_dims=16, num_heads=2)
    codes = dict(type="hook.CodeTransformer", embed_dims=16, num_heads=2)
    for options, word in (
        (dict(network=flow), "does not fit the quantizer"),
        (dict(network=codes, codec=codec_config("LightningDiT")), "does not fit the quantizer"),
        (dict(network=codes, codec=codec_config("DepthTransformer")), "per position"),
        (dict(codec=dict(type="hook.PixelLoss")), "no map of codes"),
        (dict(num_classes=0), "needs classes"),
        (dict(label_drop=2.0), "label_drop"),
        (dict(tile_size=0), "tile_size"),
        (dict(tile_size="a"), "tile_size"),
        (dict(tile_size=(16,)), "tile_size"),
        (
            dict(data_preprocessor=dict(type="hook.CodecDataPreProcessor", value_range=(0, 9))),
            "not that of model.codec",
        ),
    ):
        with pytest.raises(ConfigError, match=word) as caught:
            make_generator(**options)
        assert caught.value.remedy


def test_conditions_are_whole_numbers(make_generator):
    generator = make_generator()
    for given in (1.7, True, [0.5], "Forest"):
        with pytest.raises(ConfigError, match="the condition is no class"):
            generator.sample(1, given)


def test_conditions_and_images_that_do_not_fit_are_refused(make_generator):
    model, maps = make_generator(), make_generator(condition="map")
    none = make_generator(condition="none", num_classes=0)
    calls = [
        (lambda: model.sample(2, condition=3), "none of the classes"),
        (lambda: model.sample(2, condition=[0, 1, 2]), "does not fit"),
        (lambda: model.sample(1, seed=-1), "seed"),
        (lambda: none.sample(2, condition=0), "does not fit"),
        (lambda: maps.sample(2, condition=[0, 1]), "does not fit"),
        (lambda: make_generator(label_drop=0.0).sample(2), "unknown class"),
        (
            lambda: make_generator(label_drop=0.0, condition="map").sample(2, 0, guidance=2.0),
            "unknown class",
        ),
        (lambda: model.sample(0), "batch"),
        (lambda: model.sample(1, seed=1.5), "seed"),
        (lambda: next(model.generate(3, [0, 1, 2, 1, 1])), "condition"),
        (lambda: next(model.generate(0)), "count"),
        (lambda: next(model.generate(2, batch_size=0)), "batch_size"),
        (lambda: model.loss(*passes(model, batch((20, 16)))), "size of a tile"),
        (lambda: model.loss(*passes(model, batch(labels=(7,)))), "none of the classes"),
    ]
    flow = make_generator("LightningDiT")
    calls.append((lambda: flow.test_step(batch()), "no probability"))
    fresh = make_generator("LightningDiT")
    fresh.feature_std.zero_()
    calls.append((lambda: fresh.loss(*passes(fresh, batch())), "CodeCacheHook"))
    calls.append((lambda: fresh.sample(1), "CodeCacheHook"))
    broken = make_generator("LightningDiT")
    torch.nn.init.constant_(broken.network.head.bias, torch.nan)
    calls.append((lambda: broken.sample(1), "not finite"))
    for call, word in calls:
        with pytest.raises(ConfigError, match=word) as caught:
            call()
        assert caught.value.remedy


def test_another_autoencoder_is_refused(make_generator, tmp_path):
    with pytest.raises(ConfigError, match="codec_weights is missing"):
        make_generator().init_weights()
    first = make_generator()
    torch.save(dict(state_dict=first.codec.state_dict()), tmp_path / "codec.pth")
    started = make_generator(codec_weights=str(tmp_path / "codec.pth"))
    for weight in started.codec.parameters():
        weight.data += 1
    started.init_weights()
    weight = "encoder.conv_in.weight"
    torch.testing.assert_close(started.codec.state_dict()[weight], first.codec.state_dict()[weight])
    own = {key: value.clone() for key, value in started.state_dict().items()}
    started.load_state_dict(own)
    own["codec.encoder.conv_in.weight"] += 1
    with pytest.raises(CheckpointError, match="another autoencoder"):
        started.load_state_dict(own)
    # without codec_weights the checkpoint's is used
    other = make_generator()
    other.load_state_dict(own)
    assert torch.equal(other.codec.state_dict()[weight], own["codec.encoder.conv_in.weight"])
