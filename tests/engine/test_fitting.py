import numpy as np
import pytest

from hook.engine.fitting import class_weights


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
