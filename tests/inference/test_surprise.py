"""Bits of the codes of scenes, against windows one by one."""

import math

import numpy as np
import pytest
import torch

from hook.apis import load_model
from hook.errors import ConfigError
from hook.inference.surprise import _starts, code_bits

OPTIONS = dict(progress=False)


@pytest.fixture(scope="module")
def generator(generator_run):
    return load_model(generator_run)


def codes_of(generator, *size):
    drawn, sizes = np.random.default_rng(0), generator.network.codebook_sizes
    return np.stack([drawn.integers(0, k, size) for k in sizes])


def bits_of(generator, window):
    """Bits (8, 8) of a window of codes (Q, 8, 8)."""
    labels = torch.full((1, 8, 8), 3)  # unknown
    with torch.no_grad():
        nats = generator.network.code_lengths(torch.from_numpy(window).flatten(1).T[None], labels)
    return (nats.sum(dim=-1) / math.log(2)).reshape(8, 8).numpy()


def test_a_scene_of_a_tile_has_the_bits_of_the_tile(generator):
    codes = codes_of(generator, 8, 8)
    found = code_bits(generator, codes, np.ones((8, 8), bool), **OPTIONS)
    np.testing.assert_allclose(found, bits_of(generator, codes), rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_position_counts_where_most_is_seen_before_it(generator, batch_size):
    codes = codes_of(generator, 19, 13)
    found = code_bits(generator, codes, np.ones((19, 13), bool), batch_size, **OPTIONS)
    assert _starts(19, 8) == [(0, 0), (4, 4), (8, 4), (11, 5)]
    for (row, column), place in (
        ((0, 0), np.s_[:8, :8]),
        ((8, 4), np.s_[12:16, 8:12]),
        ((11, 5), np.s_[16:, 12:]),
        ((0, 5), np.s_[:8, 12:]),
    ):
        own = bits_of(generator, codes[:, row : row + 8, column : column + 8])
        rows, columns = place
        own = own[rows.start and rows.start - row :, columns.start and columns.start - column :]
        expected = own[: found[place].shape[0], : found[place].shape[1]]
        np.testing.assert_allclose(found[place], expected, rtol=1e-4, atol=1e-4)


def test_places_without_data_have_no_bits_and_their_codes_do_not_matter(generator):
    codes, known = codes_of(generator, 9, 5), np.ones((9, 5), bool)
    known[2:4, 1] = False
    found = code_bits(generator, codes, known, **OPTIONS)
    assert found.shape == (9, 5) and np.array_equal(np.isfinite(found), known)
    codes[:, ~known] = 99
    np.testing.assert_array_equal(code_bits(generator, codes, known, **OPTIONS), found)
    empty = torch.zeros(1, generator.codec.in_channels, 32, 32)
    with torch.no_grad():
        blank = generator.codec.encode(empty).indices.view(1, 8, 8, -1)[0, 4, 4]
    codes[:, ~known] = blank.numpy()[:, None]
    whole = code_bits(generator, codes, np.ones_like(known), **OPTIONS)
    np.testing.assert_array_equal(found[known], whole[known])


def test_models_without_probabilities_are_refused(generator_run, codec_run):
    known = np.ones((8, 8), bool)
    with pytest.raises(ConfigError, match="no probabilities of codes"):
        code_bits(load_model(codec_run), known[None], known)
    generator = load_model(generator_run)
    generator.network.condition.drop_rate = 0.0  # never learned
    with pytest.raises(ConfigError, match="unknown class"):
        code_bits(generator, known[None].astype(int), known)
