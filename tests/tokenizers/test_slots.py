"""Slots compete for seeds; what is invalid costs nothing."""

import pytest
import torch

from hook.tokenizers import HookTokenizer, ImageFacts, SlotAttention, SlotFormer

MODES = ("gru", "morph", "plain")


def attention(mode, **options):
    torch.manual_seed(0)
    return SlotAttention(16, 12, 4, mode, **options).eval()


@pytest.mark.parametrize("mode", MODES)
def test_invalid_inputs_change_nothing(mode):
    network, slots, inputs = attention(mode), torch.randn(2, 5, 16), torch.randn(2, 9, 12)
    valid = torch.rand(2, 9) < 0.6
    found = network(slots, inputs, valid)
    other = network(slots, inputs.masked_fill(~valid[..., None], 7.0), valid)
    alone = network(slots[:1], inputs[:1, valid[0]])
    assert torch.equal(found.slots, other.slots)
    assert torch.allclose(found.slots[:1], alone.slots, atol=1e-5)
    assert not found.weights.mT[~valid[:, None].expand(-1, 4, -1)].any()
    nothing = network(slots, inputs, torch.zeros_like(valid))
    assert nothing.slots.isfinite().all()


def test_what_slots_share():
    slots, inputs = torch.randn(2, 5, 16), torch.randn(2, 9, 12)
    of = {mode: attention(mode)(slots, inputs) for mode in MODES}
    ones = torch.ones(2, 9)
    assert torch.allclose(of["gru"].assignment.sum(dim=(1, 2)), ones)
    assert torch.allclose(of["morph"].assignment.sum(dim=2), ones[:, None].expand(-1, 4, -1))
    assert torch.allclose(of["plain"].weights.sum(dim=3), torch.ones(2, 4, 5))
    assert torch.allclose(of["gru"].weights.sum(dim=3), torch.ones(2, 4, 5))
    # One slot takes every input of 9 wholly, and 9 of 10 parts of their mean.
    alone = attention("morph")(slots[:, :1], inputs)
    assert torch.allclose(alone.weights, torch.full((2, 4, 1, 9), 0.1))


def test_half_of_the_slots_stays():
    network = attention("gru", half=True)
    network.norm, network.proj = torch.nn.Identity(), torch.nn.Identity()
    slots, inputs = torch.randn(1, 6, 16), torch.randn(1, 9, 12)
    found = network(slots, inputs).slots - slots  # without the residual
    assert torch.allclose(found[:, 3:], slots[:, 3:], atol=1e-6)
    assert not torch.allclose(found[:, :3], slots[:, :3], atol=0.1)


@pytest.mark.parametrize(
    "options", [dict(mode="other"), dict(mode="morph", half=True), dict(mode="gru", causal=True)]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="mode"):
        SlotAttention(16, 12, 4, **options)
    with pytest.raises(ValueError, match="heads"):
        SlotAttention(16, 12, 3)


def test_earlier_queries_do_not_see_later_ones():
    torch.manual_seed(0)
    former = SlotFormer(6, 16, 12, depth=3, num_heads=4, mode="plain").eval()
    inputs = torch.randn(2, 9, 12)
    found = former(inputs)
    assert found.slots.shape == (2, 6, 16) and found.weights.shape == (2, 4, 6, 9)
    with torch.no_grad():
        former.queries[4:] += 1
    other = former(inputs).slots
    assert torch.equal(found.slots[:, :4], other[:, :4])
    assert not torch.allclose(found.slots[:, 4:], other[:, 4:])


@pytest.mark.parametrize("assign, iterations", [("gru", 3), ("morph", 1), ("morph", 2)])
def test_as_assignment_of_the_tokenizer(assign, iterations):
    torch.manual_seed(0)
    tokenizer = HookTokenizer(
        "fast", 32, embed_dims=32, size="tiny", num_tokens=5, assign=assign,
        num_iterations=iterations,
    )  # fmt: skip
    images, valid = torch.randn(2, 3, 32, 48), torch.ones(2, 32, 48, dtype=torch.bool)
    valid[:, :12] = False
    output = tokenizer(images, facts=ImageFacts(valid))
    assert output.tokens.shape == (2, 5, 32) and output.assign == "token"
    total = output.assignment.sum(dim=1)
    assert not total[:, :3].any() and torch.allclose(total[:, 3:], torch.ones(2, 5, 12))
    output.tokens.square().sum().backward()
    assert tokenizer.vectorization.queries.grad.abs().sum() > 0
    assert tokenizer(images, num_tokens=3).tokens.shape == (2, 3, 32)
    with pytest.raises(ValueError, match="set num_tokens"):
        tokenizer.count_tokens(tokenizer.perceive(images), 0.9)
