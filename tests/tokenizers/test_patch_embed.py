import pytest
import torch
from timm.layers import PatchEmbed
from torch.utils._python_dispatch import TorchDispatchMode

from hook.tokenizers import PatchEmbedTokenizer, token_map


@pytest.mark.parametrize("bands", [3, 5])
def test_tokens_equal_timms(bands):
    ours = PatchEmbedTokenizer(img_size=32, patch_size=8, in_channels=bands, embed_dims=24)
    theirs = PatchEmbed(img_size=32, patch_size=8, in_chans=bands, embed_dim=24)
    theirs.proj.load_state_dict(ours.proj.state_dict())
    image = torch.rand(2, bands, 32, 32)
    assert torch.allclose(ours(image).tokens, theirs(image), atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Counts the numbers of the largest tensor that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.largest = max(self.largest, made.numel())
        return made


def test_positions_are_added_to_their_patches():
    plain = PatchEmbedTokenizer(img_size=16, patch_size=8, embed_dims=24)
    placed = PatchEmbedTokenizer(img_size=16, patch_size=8, embed_dims=24, with_pos_embed=True)
    placed.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(1, 3, 16, 16)
    difference = placed(image).tokens - plain(image).tokens
    assert torch.allclose(difference, placed.pos_embed, atol=1e-6)


def test_every_patch_owns_its_cell():
    output = PatchEmbedTokenizer(img_size=(16, 24), patch_size=8, embed_dims=8)(
        torch.rand(2, 3, 16, 24)
    )
    assert output.assignment.shape == (2, 6, 2, 3)
    assert token_map(output.assignment)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_large_image_makes_no_identity():
    """At 2,048 pixels the identity alone would be 1 GiB: nothing a forward pass may hold."""
    tokenizer = PatchEmbedTokenizer(img_size=512, patch_size=4, in_channels=1, embed_dims=2)
    image = torch.rand(1, 1, 512, 512)
    with torch.no_grad(), LargestTensor() as seen:
        output = tokenizer(image)
    assert output.grid_size == (128, 128) and output.assign == "grid"
    assert seen.largest == output.tokens.numel()


def test_exported_without_an_assignment():
    tokenizer = PatchEmbedTokenizer(img_size=16, patch_size=8, embed_dims=8).eval()
    image = torch.rand(1, 3, 16, 16)
    output = torch.export.export(tokenizer, (image,)).module()(image)
    assert torch.equal(output.tokens, tokenizer(image).tokens)
    assert torch.equal(output.assignment, torch.eye(4).reshape(1, 4, 2, 2))


def test_class_token_stands_in_front():
    tokenizer = PatchEmbedTokenizer(
        img_size=16, patch_size=8, embed_dims=8, with_cls_token=True, with_pos_embed=True
    )
    output = tokenizer(torch.rand(3, 3, 16, 16))
    assert output.tokens.shape == (3, 5, 8)
    assert torch.equal(output.tokens[:, 0], tokenizer.cls_token[0].expand(3, -1))
    assert output.assignment.shape == (3, 4, 2, 2)


def test_without_positions_other_sizes_work():
    tokenizer = PatchEmbedTokenizer(img_size=16, patch_size=8, embed_dims=8)
    assert tokenizer(torch.rand(1, 3, 32, 40)).tokens.shape == (1, 20, 8)


def test_what_does_not_fit_is_refused():
    tokenizer = PatchEmbedTokenizer(img_size=16, patch_size=8, embed_dims=8, with_pos_embed=True)
    with pytest.raises(ValueError, match="32 x 32"):
        tokenizer(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="4 bands"):
        tokenizer(torch.rand(1, 4, 16, 16))
    with pytest.raises(ValueError, match="smaller than a patch"):
        PatchEmbedTokenizer(img_size=7, patch_size=8)
