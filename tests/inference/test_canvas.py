"""Masks filled window by window, against windows drawn one by one."""

import numpy as np
import pytest
import torch

from hook.apis import load_model
from hook.inference.canvas import _batches, fill_map, seam_energy
from hook.models.generators.sampling import image_generators


@pytest.fixture(scope="module")
def generator(generator_run):
    return load_model(generator_run)


def mask_of(height, width):
    mask = np.add.outer(np.arange(height), np.arange(width)) // 23 % 3
    mask[:5, :9] = 255
    return mask


def test_a_mask_of_a_tile_is_a_sample(generator):
    mask = mask_of(32, 32)
    canvas = fill_map(generator, mask, seed=3, number=4, progress=False, temperature=0.8)
    condition = torch.from_numpy(mask)
    expected = generator.sample(1, condition=condition, seed=3, first=4, temperature=0.8)
    assert np.array_equal(canvas.codes.reshape(-1), expected[0].numpy())
    assert canvas.seams == ((), ())
    small = fill_map(generator, mask[:21, :30], progress=False)
    assert small.codes.shape == (1, 6, 8)


def test_windows_continue_what_is_there(generator):
    mask = mask_of(75, 90)  # 19 x 23 codes of 4 pixels: 4 x 5 windows of 8 x 8, 4 apart
    canvas = fill_map(generator, mask, seed=1, progress=False)
    padded = np.pad(mask, ((0, 5), (0, 6)), constant_values=255)
    codes = torch.full((20, 24), -1)
    for row in range(4):
        for column in range(5):
            place = np.s_[row * 4 : row * 4 + 8, column * 4 : column * 4 + 8]
            pixels = padded[row * 16 : row * 16 + 32, column * 16 : column * 16 + 32]
            label = generator.conditions(torch.from_numpy(pixels)[None])
            draws = image_generators(1, [row * 5 + column])
            given = codes[place].reshape(1, 64, 1).clone()
            found = generator.network.sample(label, draws, given=given)
            assert torch.equal(found[given >= 0], given[given >= 0])
            codes[place] = found.reshape(8, 8)
    assert np.array_equal(canvas.codes[0], codes[:19, :23].numpy())
    assert canvas.seams == ((8, 12, 16), (8, 12, 16, 20))
    for size in (1, 2):
        again = fill_map(generator, mask, seed=1, batch_size=size, progress=False)
        assert np.array_equal(again.codes, canvas.codes)
    other = fill_map(generator, mask, seed=1, number=1, progress=False)
    assert (other.codes != canvas.codes).mean() > 0.3


@pytest.mark.parametrize("counts", [(1, 1), (4, 5), (3, 1), (1, 6), (2, 2)])
def test_windows_wait_for_those_they_overlap(counts):
    done = set()
    for places in _batches(counts, 2):
        assert 0 < len(places) <= 2
        for row, column in places:
            before = {(row - 1, column + k) for k in (-1, 0, 1)} | {(row, column - 1)}
            assert {(r, c) for r, c in before if 0 <= r and 0 <= c < counts[1]} <= done
            own = {(a, b) for a, b in places if abs(a - row) < 2 and abs(b - column) < 2}
            assert own == {(row, column)}
        done |= set(places)
    assert len(done) == counts[0] * counts[1]


def test_seams_are_compared_with_other_edges_of_codes():
    image = np.zeros((2, 12, 16))
    image[:, :, 8:] += 5
    image[:, :, 13:] += 50  # inside of a code
    assert seam_energy(image, 4, ((), (2,))) == (5.0, 0.0)
    assert seam_energy(image, 4, ((), (3,))) == (0.0, pytest.approx(5 / 4))
    assert seam_energy(image, 4, ((), ())) is None
