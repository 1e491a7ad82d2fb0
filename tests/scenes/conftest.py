import numpy as np
import pytest


@pytest.fixture
def softmax_of_bands():
    """A pixelwise model whose classes are the bands; invalid pixels are the model's to mend."""

    def predict(windows: np.ndarray, valid: np.ndarray) -> np.ndarray:
        values = np.where(valid[:, None], windows, 0).astype(np.float32)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)

    return predict
