"""The hook reads the model's facts and ends a run before its first iteration."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from hook.datasets import DatasetCheckHook, TorchGeoClassification
from hook.datasets.check_hook import model_facts
from hook.datasets.named import EuroSATRGB
from hook.errors import ConfigError
from hook.registry import HOOKS, MODELS

TOKENIZER = dict(
    type="hook.PatchEmbedTokenizer", img_size=32, patch_size=16, in_channels=4, embed_dims=8
)
BACKBONE = dict(type="hook.TokenViT", tokenizer=TOKENIZER, embed_dims=8, depth=1, num_heads=1)


@pytest.fixture
def eurosat(tmp_path):
    """Three EuroSAT images per class and lists of them."""
    rng = np.random.default_rng(0)
    for name in EuroSATRGB.class_names:
        (tmp_path / name).mkdir()
        for number in range(3):
            image = rng.normal(115, 55, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{name}_{number}.jpg")
    (tmp_path / "splits").mkdir()
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        lines = [f"{name}/{name}_{number}.jpg" for name in EuroSATRGB.class_names]
        (tmp_path / "splits" / f"{split}.txt").write_text("\n".join(lines))
    return tmp_path


def dataset(root, split):
    return TorchGeoClassification(
        "EuroSATRGB",
        data_root=str(root),
        split_list=f"splits/{split}.txt",
        pipeline=[dict(type="hook.PackClsSample")],
    )


def runner(model, train, validation=None):
    def loop(data):
        return SimpleNamespace(dataloader=SimpleNamespace(dataset=data))

    return SimpleNamespace(
        model=model, train_loop=loop(train), val_loop=validation and loop(validation), cfg=Config()
    )


def classifier(num_classes=10, bands=3, **preprocessor):
    cfg = dict(
        type="hook.TokenClassifier",
        backbone={**BACKBONE, "tokenizer": {**TOKENIZER, "in_channels": bands, "img_size": 64}},
        head=dict(type="hook.LinearClsHead", num_classes=num_classes, in_channels=8),
        data_preprocessor=dict(type="hook.ClsDataPreProcessor", **preprocessor),
    )
    return MODELS.build(cfg)


def test_facts_of_a_segmentor():
    init_default_scope("mmseg")
    model = MODELS.build(
        dict(
            type="EncoderDecoder",
            data_preprocessor=dict(
                type="hook.SegDataPreProcessor", mean=[1.0, 2.0, 3.0, 4.0], std=[5.0] * 4
            ),
            backbone={**BACKBONE, "out_indices": (0,)},
            decode_head=dict(
                type="mmseg.FCNHead",
                in_channels=8,
                channels=4,
                num_convs=1,
                concat_input=False,
                num_classes=7,
                ignore_index=254,
                norm_cfg=dict(type="BN"),
            ),
        )
    )
    assert model_facts(model) == dict(
        num_classes=7, ignore_index=254, mean=[1, 2, 3, 4], std=[5] * 4, in_channels=4
    )


def test_facts_of_a_classifier():
    facts = model_facts(classifier(num_classes=6, bands=5))
    assert facts["num_classes"] == 6 and facts["in_channels"] == 5


def test_fitting_run_goes_on(eurosat):
    hook = HOOKS.build(dict(type="hook.DatasetCheckHook", max_samples=5))
    model = classifier(mean=[115.0] * 3, std=[55.0] * 3)
    hook.before_train(runner(model, dataset(eurosat, "train"), dataset(eurosat, "val")))
    hook.before_train(runner(model, dataset(eurosat, "train")))


def test_everything_wrong_is_told_at_once(eurosat):
    model = classifier(num_classes=9, bands=4, mean=[0.4] * 4, std=[0.2] * 4)
    with pytest.raises(ConfigError) as caught:
        DatasetCheckHook().before_train(runner(model, dataset(eurosat, "train")))
    text = str(caught.value)
    assert "number of classes" in text and "number of bands" in text and "labels" in text


def test_train_and_validation_share_images(eurosat):
    model = classifier(mean=[115.0] * 3, std=[55.0] * 3)
    (eurosat / "splits/val.txt").write_text("River/River_0.jpg\nForest/Forest_1.jpg\n")
    with pytest.raises(ConfigError, match=r"training and validation images[\s\S]*River_0.jpg"):
        DatasetCheckHook().before_train(
            runner(model, dataset(eurosat, "train"), dataset(eurosat, "val"))
        )


def test_training_on_test_images_is_warned_of(eurosat):
    model = classifier(mean=[115.0] * 3, std=[55.0] * 3)
    options = dict(type="hook.TorchGeoClassification", dataset="EuroSATRGB", data_root=str(eurosat))
    run = runner(model, dataset(eurosat, "train"), dataset(eurosat, "val"))
    for split, warned in (("train", True), ("test", False), ("missing", False)):
        test = dict(options, split_list=f"splits/{split}.txt")
        run.cfg.test_dataloader = dict(dataset=test)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            DatasetCheckHook(max_samples=5).before_train(run)
        assert any("training and test images" in str(w.message) for w in caught) == warned


def test_train_script_stops(eurosat, repo, tmp_path):
    """A real run with statistics in other units ends with status 1 and the remedy."""
    config = repo / "configs/patch_embed/patch-embed_vit-192x6_eurosat-2k-64.py"
    options = [
        f"{split}_dataloader.dataset.data_root={eurosat}" for split in ("train", "val", "test")
    ]
    options += [f"{split}_dataloader.num_workers=0" for split in ("train", "val")]
    options += [f"{split}_dataloader.persistent_workers=False" for split in ("train", "val")]
    options += [
        "model.data_preprocessor.mean=[0.485,0.456,0.406]",
        "model.data_preprocessor.std=[0.229,0.224,0.225]",
    ]
    done = subprocess.run(
        [
            sys.executable,
            str(repo / "tools/train.py"),
            str(config),
            f"--work-dir={tmp_path / 'run'}",
            "--cfg-options",
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=repo,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "value range" in done.stderr and "1/255" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("*.pth"))
