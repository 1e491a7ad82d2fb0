import pytest
import torch
from timm.layers import PatchEmbed

from hook.tokenizers import PatchEmbedTokenizer, token_map


@pytest.mark.parametrize("bands", [3, 5])
def test_tokens_equal_timms(bands):
    ours = PatchEmbedTokenizer(img_size=32, patch_size=8, in_channels=bands, embed_dims=24)
    theirs = PatchEmbed(img_size=32, patch_size=8, in_chans=bands, embed_dim=24)
    theirs.proj.load_state_dict(ours.proj.state_dict())
    image = torch.rand(2, bands, 32, 32)
    assert torch.allclose(ours(image).tokens, theirs(image), atol=1e-6)


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
