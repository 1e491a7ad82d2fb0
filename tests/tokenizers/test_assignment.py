import numpy as np
import pytest
import torch
from scipy import ndimage

from hook.tokenizers import (
    HookTokenizer,
    PatchEmbedTokenizer,
    dense_features,
    diffuse_assignment,
    spread_cells,
    token_map,
)
from hook.tokenizers.assignment import explained_variance, seed_ownership


def test_token_map_takes_the_largest_weight():
    assignment = torch.tensor([[[[0.9, 0.1]], [[0.05, 0.6]], [[0.05, 0.3]]]])
    assert token_map(assignment).tolist() == [[[0, 1]]]


def test_token_map_enlarges_by_nearest_neighbour():
    assignment = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.9]]]])
    assert token_map(assignment, (2, 4)).tolist() == [[[0, 0, 1, 1], [0, 0, 1, 1]]]


def test_ownership_by_hand():
    """Rescaled weights 0, 1/2 and 1 through a softmax."""
    weights = seed_ownership(torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1))
    expected = torch.softmax(torch.tensor([0.0, 0.5, 1.0]), dim=0)
    assert torch.allclose(weights.flatten(), expected)


def test_ownership_is_shared_where_all_tokens_agree():
    weights = seed_ownership(torch.full((1, 4, 3, 3), 0.2))
    assert torch.allclose(weights, torch.full((1, 4, 3, 3), 0.25))


def test_one_token_owns_everything():
    weights = seed_ownership(torch.rand(1, 1, 2, 2))
    assert torch.equal(weights, torch.ones(1, 1, 2, 2))


def test_dense_features_mix_tokens_by_ownership():
    tokens = torch.randn(2, 3, 5)
    assignment = torch.rand(2, 3, 4, 4)
    dense = dense_features(tokens, assignment, (2, 2))
    low = assignment[:, :, ::2, ::2]  # nearest neighbour to half the size
    weights = seed_ownership(low)
    expected = (weights.flatten(2).transpose(1, 2) @ tokens).transpose(1, 2).reshape(2, 5, 2, 2)
    assert torch.allclose(dense, expected, atol=1e-6)


def test_dense_features_detach_the_assignment():
    tokens = torch.randn(1, 3, 5, requires_grad=True)
    assignment = torch.rand(1, 3, 4, 4, requires_grad=True)
    dense_features(tokens, assignment, (4, 4)).sum().backward()
    assert tokens.grad is not None
    assert assignment.grad is None


def test_grid_tokens_return_to_their_cells():
    maps = torch.randn(2, 5, 3, 4)
    tokens = maps.flatten(2).transpose(1, 2)
    assignment = torch.eye(12).reshape(1, 12, 3, 4).expand(2, -1, -1, -1)
    assert torch.equal(dense_features(tokens, assignment, (3, 4), "grid"), maps)
    larger = dense_features(tokens, assignment, (6, 8), "grid")
    expected = torch.nn.functional.interpolate(maps, size=(6, 8), mode="bilinear")
    assert torch.equal(larger, expected)


def test_class_token_left_in_is_refused():
    with pytest.raises(ValueError, match="leave out the class token"):
        dense_features(torch.rand(1, 4, 5), torch.rand(1, 3, 2, 2), (2, 2))


def test_unknown_meaning_is_refused():
    with pytest.raises(ValueError, match="assign must be"):
        dense_features(torch.rand(1, 3, 5), torch.rand(1, 3, 2, 2), (2, 2), "pixel")


def test_ownership_of_tokens_is_used_as_it_is_and_learns():
    tokens = torch.randn(2, 3, 5)
    assignment = torch.rand(2, 3, 4, 6).softmax(dim=1).requires_grad_()
    dense = dense_features(tokens, assignment, (4, 6), "token")
    expected = (assignment.flatten(2).transpose(1, 2) @ tokens).transpose(1, 2).reshape(2, 5, 4, 6)
    assert torch.allclose(dense, expected, atol=1e-6)
    dense.square().sum().backward()
    assert assignment.grad.abs().sum() > 0
    coarse = dense_features(tokens, torch.full((2, 3, 4, 6), 1 / 3), (2, 3), "token")
    mean = tokens.mean(dim=1)[..., None, None].expand(-1, -1, 2, 3)
    assert torch.allclose(coarse, mean, atol=1e-6)


def test_explained_variance_by_hand():
    """Two regions 2 apart with a spread of 1 inside: 1 of 2 parts of the variance is between."""
    seeds = torch.tensor([[0.0, 2.0, 2.0, 4.0], [0.0, 2.0, 2.0, 4.0]])[..., None]
    owners = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    assert explained_variance(seeds, owners).tolist() == pytest.approx([0.5, 1.0])


def test_explained_variance_equals_numpys():
    rng = np.random.default_rng(0)
    seeds, owners = rng.normal(size=(50, 3)), rng.integers(-1, 4, 50)
    known = owners >= 0
    within = sum(np.var(seeds[owners == k], axis=0).sum() * (owners == k).sum() for k in range(4))
    expected = 1 - within / (np.var(seeds[known], axis=0).sum() * known.sum())
    ours = explained_variance(torch.from_numpy(seeds)[None], torch.from_numpy(owners)[None])
    assert ours.item() == pytest.approx(expected)


@pytest.mark.parametrize("owner", [0, -1])
def test_seeds_that_are_alike_are_explained(owner):
    owners = torch.full((1, 5), owner)
    assert explained_variance(torch.ones(1, 5, 3), owners).item() == 1


def test_diffusion_on_plain_ground_is_that_of_heat():
    """Against scipy: on equal colours a step is a convolution with the five-point stencil."""
    weights = np.random.default_rng(0).random((9, 11))
    found = diffuse_assignment(
        torch.tensor(weights, dtype=torch.float64)[None, None], torch.zeros(1, 2, 9, 11), 7, 1.0
    )
    stencil = np.array([[0, 0.2, 0], [0.2, 0.2, 0.2], [0, 0.2, 0]])
    for _ in range(7):
        weights = ndimage.convolve(weights, stencil, mode="nearest")
    np.testing.assert_allclose(found[0, 0], weights, atol=1e-6)


def test_diffusion_is_the_gradient_flow_of_its_energy():
    """One step against autograd: the energy is the squared differences across open edges."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 3, 6, 5, generator=generator, requires_grad=True)
    colours = torch.randn(2, 4, 6, 5, generator=generator)
    energy = 0
    for axis in (-1, -2):
        open_edge = torch.exp(-colours.diff(dim=axis).square().mean(1, keepdim=True) / (2 * 0.7**2))
        energy = energy + (open_edge * weights.diff(dim=axis).square()).sum() / 2
    (slope,) = torch.autograd.grad(energy, weights)
    found = diffuse_assignment(weights, colours, 1, 0.7)
    assert torch.allclose(found, weights - 0.2 * slope, atol=1e-6)


def test_diffusion_keeps_sums_and_stops_at_edges_and_invalid_cells():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 3, 8, 8, generator=generator).softmax(dim=1)
    colours = torch.zeros(1, 1, 8, 8)
    colours[..., 3:] = 100.0  # a wall
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    valid[:, 5] = False
    found = diffuse_assignment(weights, colours, 400, 0.3, valid)
    assert torch.allclose(found.sum(dim=1), torch.ones(1, 8, 8), atol=1e-5)
    assert torch.allclose(found.sum(dim=(2, 3)), weights.sum(dim=(2, 3)), atol=1e-3)
    assert torch.equal(found[:, :, 5], weights[:, :, 5])
    for part in (np.s_[..., :5, :3], np.s_[..., :5, 3:], np.s_[..., 6:, :3], np.s_[..., 6:, 3:]):
        mean = weights[part].mean(dim=(-2, -1), keepdim=True)
        assert torch.allclose(found[part], mean.expand_as(found[part]), atol=1e-3)


def test_cells_lie_where_the_tokenizer_puts_them():
    cells = torch.arange(4).reshape(1, 2, 2)
    patches = PatchEmbedTokenizer(img_size=20, patch_size=8, embed_dims=4)
    spread = patches(torch.rand(1, 3, 20, 16)).token_map((20, 16))[0]
    assert spread[:, 0].tolist() == [0] * 8 + [2] * 12  # the last rows belong to no patch
    assert spread[0].tolist() == [0] * 8 + [1] * 8
    seeds = HookTokenizer(preset="fast", img_size=6, seed_dims=64, embed_dims=4)
    cell = seeds(torch.rand(1, 3, 6, 6)).cell
    assert spread_cells(cells, (6, 6), cell)[0, :, 0].tolist() == [0, 0, 0, 0, 2, 2]
    assert spread_cells(cells, (6, 6))[0, :, 0].tolist() == [0, 0, 0, 2, 2, 2]
