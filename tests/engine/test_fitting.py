import numpy as np
import pytest
from mmengine.config import Config

from hook.engine.fitting import class_weights, fit_sizes


def test_class_weights():
    counts = np.array([900, 100, 0])
    weights = class_weights(counts)
    assert weights[1] / weights[0] == pytest.approx(3, rel=1e-3)
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1, rel=1e-3)
    assert weights[2] == 1
    assert max(class_weights(np.array([10**9, 1]))) == 10


def test_rare_classes_weigh_more():
    assert class_weights(np.array([90, 10]))[1] == pytest.approx(
        3 * class_weights(np.array([90, 10]))[0], rel=1e-2
    )


@pytest.mark.parametrize(("preset", "marks"), [("fast", True), ("reference", None)])
def test_a_tokenizer_that_can_ignores_invalid_pixels(preset, marks):
    config = Config(
        dict(
            model=dict(
                backbone=dict(tokenizer=dict(type="hook.HookTokenizer", preset=preset)),
                data_preprocessor=dict(type="hook.SegDataPreProcessor"),
            ),
            **{f"{part}_dataloader": dict(dataset=dict()) for part in ("train", "val", "test")},
        )
    )
    fit_sizes(config, num_tokens=4, chip_size=32, batch_size=2)
    assert config.model.data_preprocessor.get("mark_invalid") is marks
    assert config.model.backbone.tokenizer.img_size == 32
