"""Learning from scenes without labels, from files to a model that others start from."""

import shutil

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from rasterio.transform import from_origin

from hook.apis import (
    RegionExtractor,
    SceneMapper,
    TrainingResult,
    load_model,
    pretrain,
    pretraining,
)
from hook.checkpoint import load_checkpoint
from hook.engine import frozen_features
from hook.engine.frozen_features import FrozenFeatureHook, StoredFeatures
from hook.errors import ConfigError, DataError
from hook.models import TokenPretrainer
from hook.models.autoencoders import frozen as frozen_module
from hook.zoo import read_published

pytestmark = pytest.mark.filterwarnings("ignore:only .* chips")

# A model and a run that fit into seconds.
TINY = {
    "model.backbone.embed_dims": 24,
    "model.backbone.depth": 1,
    "model.backbone.num_heads": 2,
    "model.backbone.tokenizer.seed_dims": 16,
    "custom_hooks": [dict(type="hook.DatasetCheckHook"), dict(type="hook.FrozenFeatureHook")],
}
SMALL = dict(chip_size=32, batch_size=4, epochs=2, progress=False, cfg_options=TINY)
# EfficientNet-Lite0 with random weights, which need no package, and its finest maps.
RANDOM = dict(weights=None, levels=(0, 1), scale=1.0)
SIZE = 96


def write(path, bands=3, size=SIZE, nodata=None, dtype="uint16", descriptions=None, blank=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(bands)
    image = rng.integers(1, 5, (bands, size // 8, size // 8)).repeat(8, 1).repeat(8, 2) * 50
    image = (image + rng.integers(0, 20, image.shape)).astype(dtype)
    image[:, :blank] = nodata or 0
    grid = dict(crs="EPSG:32633", transform=from_origin(5e5, 4e6, 2, 2))
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=size, width=size, dtype=dtype,
        nodata=nodata, **grid,
    ) as sink:  # fmt: skip
        sink.write(image)
        if descriptions:
            sink.descriptions = descriptions
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write(tmp_path_factory.mktemp("scene") / "scene.tif")


@pytest.fixture(scope="module")
def result(scene, tmp_path_factory):
    return pretrain(scene, tmp_path_factory.mktemp("run") / "run", frozen=RANDOM, **SMALL)


def test_a_scene_becomes_a_model(result, scene):
    assert isinstance(result, TrainingResult) and result.metrics == {}
    assert list(result.curves.index) == [1, 2] and result.curves.loss.notna().all()
    assert "Features of tf_efficientnet_lite0: 9 images" in result.log.read_text()
    assert not list(result.work_dir.glob(frozen_features.FILES))  # removed at the end
    model = load_model((result.config, result.checkpoint))
    with rasterio.open(scene) as src:
        values = src.read().reshape(3, -1).astype(float)
    np.testing.assert_allclose(model.dataset_meta["mean"], values.mean(1), rtol=1e-4)
    np.testing.assert_allclose(model.dataset_meta["std"], values.std(1), rtol=1e-4)
    assert model.frozen is None  # not needed any more
    assert model.feature_std.shape == (40,) and (model.feature_std != 1).all()
    # A token has as many seeds as in the base: 12 tokens of a chip four times as large.
    assert model.backbone.tokenizer.num_tokens == 3


def test_the_model_embeds_regions_and_has_no_classes(result, scene, tmp_path):
    files = (result.config, result.checkpoint)
    RegionExtractor(files).extract(scene, tmp_path / "tokens.parquet", progress=False)
    table = geopandas.read_parquet(tmp_path / "tokens.parquet")
    assert len(table) > 9 and table.embedding.iloc[0].shape == (24,)
    RegionExtractor(files).extract(scene, tmp_path / "objects.parquet", scale=1.0, progress=False)
    with pytest.raises(ConfigError, match="has no classes: it learned without labels"):
        SceneMapper(files)


def test_a_published_one_embeds_the_same_and_starts_a_training(result, scene, publish, tmp_path):
    files = (result.config, result.checkpoint)
    path = publish(files, tmp_path, "pretrained", "--metric", "building IoU", "51.5")
    card = read_published(path)
    assert card.metrics == {"building IoU": 51.5}
    assert card.task == "embedding" and "classes" not in card.dataset_meta
    assert not {"losses", "frozen", "feature_channels", "region_loss"} & card.model.keys()
    tables = []
    for number, model in enumerate((files, path)):
        RegionExtractor(model).extract(scene, tmp_path / f"{number}.parquet", progress=False)
        tables.append(geopandas.read_parquet(tmp_path / f"{number}.parquet"))
    whole, half = (np.stack(table.embedding.to_list()).mean(axis=0) for table in tables)
    np.testing.assert_allclose(half, whole, atol=0.02 * np.abs(whole).max())  # half precision
    still = SMALL | dict(cfg_options=TINY | {"optim_wrapper.optimizer.lr": 0.0}, epochs=1)
    started = pretrain(scene, tmp_path / "run", frozen=None, pretrained=path, **still)
    name = "backbone.tokenizer.stem.down1.conv.weight"
    weight = load_checkpoint(started.checkpoint)["state_dict"][name]
    assert torch.equal(weight, load_checkpoint(path)["state_dict"][name].float())


def test_bands_and_classes_of_any_number_without_a_network(tmp_path):
    write(tmp_path / "images" / "a.tif", bands=5, blank=40, nodata=0)
    done = pretrain(tmp_path / "images", tmp_path / "run", frozen=None, **SMALL)
    cfg = Config.fromfile(done.config)
    assert cfg.model.frozen is None and [one.type for one in cfg.model.losses] == [
        "hook.SeedReconstruction"
    ]
    assert cfg.model.backbone.tokenizer.in_channels == 5
    # Of nine chips the first three have no valid pixel; the next have three quarters.
    assert cfg.train_dataloader.dataset.indices == [3, 4, 5, 6, 7, 8]
    assert cfg.model.data_preprocessor.mark_invalid


def test_few_of_many_chips_are_drawn(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "_CHIPS_SEEN", 10)
    options = SMALL | dict(epochs=None)
    with pytest.warns(UserWarning, match="only 4 chips of 32 px to learn from"):
        done = pretrain(scene, tmp_path / "run", frozen=None, max_chips=4, **options)
    assert len(done.curves) == 3  # epochs
    assert len(Config.fromfile(done.config).train_dataloader.dataset.indices) == 4


def test_a_resumed_run_equals_the_unbroken_one(result, scene, tmp_path, monkeypatch):
    loss, calls = TokenPretrainer.loss, []

    def interrupted(self, *args):
        calls.append(args)
        if len(calls) == 5:  # of three steps in an epoch
            raise KeyboardInterrupt
        return loss(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TokenPretrainer, "loss", interrupted)
        pretrain(scene, tmp_path / "run", frozen=RANDOM, **SMALL)
    (stored,) = (tmp_path / "run").glob(frozen_features.FILES)
    assert len(StoredFeatures(stored)) == 9
    monkeypatch.setattr(FrozenFeatureHook, "_compute", None)  # the features are there
    again = pretrain(scene, tmp_path / "run", frozen=RANDOM, resume=True, **SMALL)
    expected, found = (load_checkpoint(one.checkpoint)["state_dict"] for one in (result, again))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)
    # Finished, it needs no features.
    pretrain(scene, tmp_path / "run", frozen=RANDOM, resume=True, **SMALL)


def test_stored_features_are_those_of_the_network(scene, tmp_path, monkeypatch):
    """In float16, by the number of the chip; and kept on request."""
    hooks = [dict(type="hook.FrozenFeatureHook", keep=True)]
    options = SMALL | dict(cfg_options=TINY | {"custom_hooks": hooks})
    seen = []
    loss = TokenPretrainer.loss

    def spied(self, inputs, data_samples):
        indexes = [sample.sample_idx for sample in data_samples]
        for stored, computed in zip(
            self.stored_maps(indexes), self.frozen_maps(inputs), strict=True
        ):
            torch.testing.assert_close(stored, computed, rtol=2e-3, atol=2e-3)
            seen.append(tuple(stored.shape[1:]))
        return loss(self, inputs, data_samples)

    monkeypatch.setattr(TokenPretrainer, "loss", spied)
    pretrain(scene, tmp_path / "run", frozen=RANDOM, **options)
    assert set(seen) == {(16, 16, 16), (24, 8, 8)}
    (path,) = (tmp_path / "run").glob(frozen_features.FILES)
    stored = StoredFeatures(path)
    mean, std = stored.statistics()
    maps = torch.cat([one.flatten(2).mean(2) for one in stored(range(9))], dim=1)
    torch.testing.assert_close(mean, maps.mean(0), rtol=1e-4, atol=1e-5)
    assert std.shape == (40,) and (std > 0).all()
    # Other images, or another view of them, have other features.
    other = write(tmp_path / "other.tif", bands=3, size=128)
    pretrain(other, tmp_path / "run", frozen=RANDOM, overwrite=True, **SMALL)
    assert not path.exists()


def test_pretrained_weights_start_a_training(result, scene, tmp_path):
    """By the name of the checkpoint, as ``load_from`` of a classifier's config."""
    from hook.engine.runner import build_runner

    text = result.config.read_text()
    cfg = Config.fromfile(result.config)
    cfg.model = dict(
        type="hook.TokenClassifier",
        backbone=cfg.model.backbone,
        head=dict(type="hook.LinearClsHead", num_classes=3, in_channels=24),
        data_preprocessor=cfg.model.data_preprocessor,
    )
    cfg.load_from, cfg.work_dir = str(result.checkpoint), str(tmp_path / "run")
    runner = build_runner(cfg)
    runner.load_or_resume()
    state = load_checkpoint(result.checkpoint)["state_dict"]
    for name, value in runner.model.backbone.state_dict().items():
        torch.testing.assert_close(value, state[f"backbone.{name}"])
    assert result.config.read_text() == text


def test_other_bands_start_from_those_of_the_same_name(tmp_path):
    options = SMALL | dict(frozen=None, epochs=1)
    first = write(tmp_path / "rgb.tif", descriptions=["red", "green", "blue"])
    rgb = pretrain(first, tmp_path / "rgb", **options)
    more = write(tmp_path / "more.tif", bands=4, descriptions=["nir", "red", "green", "blue"])
    still = options | dict(cfg_options=TINY | {"optim_wrapper.optimizer.lr": 0.0})
    result = pretrain(more, tmp_path / "more", pretrained=rgb.checkpoint, **still)
    name = "backbone.tokenizer.stem.down1.conv.weight"
    own, loaded = (load_checkpoint(r.checkpoint)["state_dict"][name] for r in (result, rgb))
    assert torch.equal(own[:, 1:], loaded) and not own[:, 0].any()
    assert "red, green, blue are used for these bands" in result.log.read_text()


# ---------------------------------------------------------------------------------- bad input
def test_images_that_cannot_be_learned_from(scene, tmp_path):
    def fails(kind, match, images=scene, **options):
        with pytest.raises(kind, match=match) as caught:
            pretrain(images, tmp_path / "bad", **(SMALL | dict(frozen=None) | options))
        assert caught.value.remedy
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        return str(caught.value)

    blank = write(tmp_path / "blank.tif", nodata=7, blank=SIZE)
    assert "0 with any valid pixel" in fails(DataError, "too few chips", blank)
    small = write(tmp_path / "small.tif", size=32)
    assert "1 of 1" in fails(DataError, "too few chips", small)
    fails(ConfigError, "chip_size=256 is too large", chip_size=256)
    five = write(tmp_path / "five.tif", bands=5)
    write(tmp_path / "folder" / "a.tif", bands=5)
    write(tmp_path / "folder" / "b.tif", bands=3)
    fails(DataError, "b.tif: no band 4", tmp_path / "folder")
    fails(DataError, "missing.tif", tmp_path / "missing.tif")
    message = fails(ConfigError, "bands that the frozen network sees", five, frozen=RANDOM)
    assert "bands=(4, 3, 2)" in message and "frozen=None" in message
    fails(ConfigError, "do not fit the frozen network", five, frozen=RANDOM, bands=(1, 2))
    fails(ConfigError, "base .* cannot be adapted", base="hook-fast-skip_vit-192x6_banepa-256")
    fails(ConfigError, "frozen=3", frozen=3)
    fails(ConfigError, "chip_size=2", chip_size=2)
    fails(ConfigError, "bands='red'", bands="red")
    if not torch.cuda.is_available():
        fails(ConfigError, "cuda", device="cuda")


def test_bands_of_the_network_by_name_and_number(tmp_path):
    names = ("blue", "green", "red", "nir")
    named = write(tmp_path / "named.tif", bands=4, descriptions=names)
    plain = write(tmp_path / "plain.tif", bands=4)
    for number, (image, bands) in enumerate(((named, None), (plain, (3, 2, 1)))):
        out = tmp_path / f"run{number}"
        done = pretrain(image, out, frozen=RANDOM, bands=bands, **(SMALL | dict(epochs=1)))
        assert Config.fromfile(done.config).model.frozen.bands == [2, 1, 0]


def test_without_the_package_of_the_network(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        pretrain(scene, tmp_path / "run", **SMALL)
    assert "hook-rs[perceptual]" in caught.value.remedy


def test_a_full_disk_is_noticed_before_the_features_are_computed(scene, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(frozen_features.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ConfigError, match="no room for the features") as caught:
        pretrain(scene, tmp_path / "run", frozen=RANDOM, **SMALL)
    assert "max_chips" in caught.value.remedy and "9 images" in caught.value.expected
    assert not list((tmp_path / "run").glob("*.npy"))


def test_images_that_vary_have_no_stored_features(scene, tmp_path):
    for change, word in (
        ({"train_dataloader.dataset.mode": "random"}, "mode='random'"),
        (
            {
                "train_dataloader.dataset.pipeline": [
                    dict(type="hook.Albumentations", transforms=[dict(type="HorizontalFlip")]),
                    dict(type="hook.PackClsSample"),
                ]
            },
            "Albumentations in the pipeline",
        ),
    ):
        options = SMALL | dict(cfg_options=TINY | change)
        with pytest.raises(ConfigError, match="its images must not vary") as caught:
            pretrain(scene, tmp_path / "run", frozen=RANDOM, **options)
        assert word in str(caught.value)
