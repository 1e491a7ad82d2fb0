import numpy as np

from hook.datasets.statistics import BandStatistics


def test_merging_is_exact_for_a_large_mean():
    rng = np.random.default_rng(1)
    images = [rng.normal(1e7, 1, (rng.integers(1, 9), 7, 2)) for _ in range(50)]
    statistics = BandStatistics()
    for image in images:
        statistics.update(image, np.ones(image.shape[:2]))
    everything = np.concatenate([image.reshape(-1, 2) for image in images])
    result = statistics.result()
    np.testing.assert_allclose(result["mean"], everything.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(result["std"], everything.std(axis=0), rtol=1e-9)
