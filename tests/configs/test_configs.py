"""Every config loads, builds and is consistent."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.utils import register_all_modules

from hook.checkpoint import load_weights
from hook.datasets.check_hook import model_facts
from hook.engine.configs import find_config, setup_environment

ROOT = Path(__file__).resolve().parents[2] / "configs"
# Benchmark configs have only a model, and pretraining has no classes.
CONFIGS = sorted(
    p for p in ROOT.glob("*/*.py") if p.parent.name not in ("_base_", "benchmark", "pretrain")
)


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True, scope="module")
def modules():
    register_all_modules(init_default_scope=False)


def test_every_data_set_has_both_methods():
    names = [p.stem for p in CONFIGS]
    for data in ("nwpu-resisc45-224", "whu-rs19-224", "nasc-tg2-224", "gid5-512",
                 "deepglobe-512", "eurosat-64", "banepa-512"):  # fmt: skip
        assert f"hook_vit-b_{data}" in names
        assert f"patch-embed_vit-b_{data}" in names


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_config(path):
    cfg = Config.fromfile(path)
    # On the meta device to save memory, except mmseg's MixVisionTransformer, which needs values.
    device = "cpu" if cfg.model.backbone.type == "MixVisionTransformer" else "meta"
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device(device):
        model = MODELS.build(cfg.model)
    metainfo = cfg.train_dataloader.dataset.metainfo
    head = model.decode_head if hasattr(model, "decode_head") else model.head
    assert head.num_classes == len(metainfo.classes)
    assert len(set(metainfo.classes)) == len(metainfo.classes)
    assert model_facts(model.backbone)["in_channels"] == len(metainfo.bands)
    if cfg.val_dataloader is None:  # no validation during training
        assert cfg.val_evaluator is None and cfg.val_cfg is None
    for split in ("val", "test") if cfg.val_dataloader else ("test",):
        assert cfg[f"{split}_dataloader"].dataset.metainfo == metainfo
        assert f"{split}_evaluator" in cfg
    assert list(cfg.model.data_preprocessor["mean"]) == list(metainfo.mean)
    assert list(cfg.model.data_preprocessor["std"]) == list(metainfo.std)
    if "palette" in metainfo:
        assert len(metainfo.palette) == len(metainfo.classes)


@pytest.mark.parametrize("path", sorted(ROOT.glob("autoencoders/*/*.py")), ids=ids)
def test_autoencoder(path):
    cfg = Config.fromfile(path)
    assert find_config(path.stem) == path
    if "backbone" in cfg.model.encoder:
        cfg.model.encoder.backbone.weights = None  # those of an optional package
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        model = MODELS.build(cfg.model)
    metainfo = cfg.test_dataloader.dataset.metainfo
    assert model.in_channels == len(metainfo.bands)
    trained = cfg.train_dataloader.dataset
    if trained.type == "hook.ImagesInMemory":
        trained = trained.dataset
    for one in trained.get("datasets", [trained]):
        assert one.metainfo.bands == metainfo.bands
    for split in ("val", "test"):
        assert cfg[f"{split}_dataloader"].dataset.metainfo == metainfo
        assert f"{split}_evaluator" in cfg
    assert cfg.data_preprocessor == cfg.model.data_preprocessor


@pytest.mark.parametrize("path", sorted(ROOT.glob("generators/*/*.py")), ids=ids)
def test_generator(path):
    cfg = Config.fromfile(path)
    assert find_config(path.stem) == path
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        model = MODELS.build(cfg.model)
    metainfo = cfg.train_dataloader.dataset.metainfo
    assert model.in_channels == len(metainfo.bands)
    assert model.network.condition.num_classes == len(metainfo.classes)
    weights = Path(cfg.model.codec_weights)
    if weights.parts[0] == "hook:":
        setup_environment()
        load_weights(MODELS.build(cfg.model.codec), cfg.model.codec_weights)  # it fits
        return
    # The autoencoder is that of the config whose checkpoint is named.
    codec = Config.fromfile(find_config(weights.parent.name))
    assert weights.name == f"epoch_{codec.train_cfg.max_epochs}.pth"
    own, other = cfg.model.codec.copy(), codec.model.copy()
    for options in (own, other):
        options.quantizer.pop("factors", None)  # other columns of the same codes
    assert own == other


@pytest.mark.parametrize("path", sorted(ROOT.glob("pretrain/*.py")), ids=ids)
def test_pretraining(path):
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        model = MODELS.build(cfg.model)
    # All weights have a place in the classifier of the same data, or in the small segmenter.
    trained = ROOT / "hook/hook-objects_vit-192x6_eurosat-2k-64.py"
    if "small" in path.stem:
        trained = ROOT / "hook/hook-objects-small_vit-96x3_banepa-256.py"
    trained = Config.fromfile(trained)
    with DefaultScope.overwrite_default_scope(trained.default_scope), torch.device("meta"):
        other = MODELS.build(trained.model)
    own = {name: value.shape for name, value in model.backbone.state_dict().items()}
    others = {name: value.shape for name, value in other.backbone.state_dict().items()}
    assert own.items() <= others.items()
    if "small" not in path.stem:  # a segmentation has weights for the maps it returns beside
        assert own == others
    stores = any(hook.type == "hook.FrozenFeatureHook" for hook in cfg.custom_hooks)
    assert stores == (cfg.model.frozen is not None)
    # Images of the training split only.
    dataset = cfg.train_dataloader.dataset
    assert dataset.split_list == "splits/train.txt" and cfg.test_dataloader is None
    lists = []
    for part in ("train", "test"):
        lines = (
            (ROOT / f"_base_/splits/eurosat/eurosat_rgb_15k_{part}.txt").read_text().splitlines()
        )
        pairs = (line.split(": ") for line in lines)
        lists.append({(name, number) for name, numbers in pairs for number in numbers.split()})
    assert len(lists[0]) == 12_000 and not lists[0] & lists[1]


@pytest.mark.parametrize("task", ["cls", "seg"])
@pytest.mark.parametrize(
    ("method", "millions"), [("hook", (98.9, 141.4)), ("patch_embed", (85.7, 121.5))]
)
def test_the_papers_number_of_parameters(task, method, millions):
    cfg = Config.fromfile(ROOT / f"_base_/models/{method}_vit-b_{task}.py")
    with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
        model = MODELS.build(cfg.model)
    expected = millions[0 if task == "cls" else 1]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(ROOT.glob("**/hook-fast_vit-b_*.py")) if "_seg-" not in p.name],
    ids=ids,
)
def test_fast_is_one_word_in_a_config(path):
    fast = Config.fromfile(path)
    reference = Config.fromfile(path.with_name(path.name.replace("hook-fast_", "hook_")))
    assert fast.model.backbone.tokenizer.pop("preset") == "fast"
    assert reference.model.backbone.tokenizer.pop("preset") == "reference"
    assert fast.model == reference.model


@pytest.mark.parametrize("size", [224, 512])
def test_the_benchmarks_models_differ_in_their_tokens_only(size):
    shapes = set()
    for method in ("hook", "hook-fast", "patch-embed-pos"):
        cfg = Config.fromfile(ROOT / f"benchmark/{method}_vit-b_{size}.py")
        with DefaultScope.overwrite_default_scope("hook"), torch.device("meta"):
            model = MODELS.build(cfg.model)
        blocks = model.backbone.blocks.state_dict() | model.head.state_dict()
        shapes.add(tuple((name, tuple(value.shape)) for name, value in blocks.items()))
        assert not model.backbone.tokenizer.with_cls_token
        assert model.backbone.tokenizer.img_size == (size, size)
    assert len(shapes) == 1
