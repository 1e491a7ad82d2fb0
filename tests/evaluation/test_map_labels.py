"""Labels burnt into images, and how they are read."""

import numpy as np
import pytest

from hook.evaluation.map_labels import SIZES, burn_labels, find_reader, text_errors


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(60, 160, (3, 64, 64))
    return noise.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


def test_labels_lie_in_their_boxes_and_nowhere_else(image):
    burnt, labels = burn_labels(image, seed=3)
    assert burnt.shape == image.shape and len(labels) == len(SIZES)
    outside = np.ones(image.shape[1:], bool)
    for label in labels:
        top, bottom, left, right = label.box
        assert 0 <= top < bottom <= 256 and 0 <= left < right <= 256
        inside = np.s_[:, top:bottom, left:right]
        assert outside[inside[1:]].all()  # none on another
        outside[inside[1:]] = False
        assert burnt[inside].min() <= 30 and burnt[inside].max() == 255  # ink and halo
        assert label.cut(burnt).shape[0] >= min(SIZES)
    np.testing.assert_array_equal(burnt[:, outside], image[:, outside])
    assert burn_labels(image, seed=3)[1] == labels != burn_labels(image, seed=4)[1]


def test_error_rates_are_edits_over_what_was_written():
    true = ["Oakmere Bay", "Dunford"]
    assert text_errors(true, true) == (0, 0)
    cer, wer = text_errors(["Oakmare Bay", ""], true)
    assert cer == pytest.approx(100 * 8 / 18) and wer == pytest.approx(100 * 2 / 3)


def test_the_reader_reads_clean_labels_and_not_grey(image):
    reader = find_reader()
    if reader is None:
        pytest.skip("rapidocr-onnxruntime 1.4 is an optional extra")
    rates = []
    for contrast in (1, 0):
        read, true = [], []
        for seed in range(4):
            burnt, labels = burn_labels(image, seed)
            faint = (128 + contrast * (burnt - 128.0)).astype(np.uint8)
            read += reader([label.cut(faint) for label in labels])
            true += [label.text for label in labels]
        rates.append(text_errors(read, true)[0])
    assert rates[0] < 10 and rates[1] > 90


def test_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.2.3")
    assert find_reader() is None
