import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from hook.errors import CheckpointError, ConfigError
from hook.models import TokenViT
from hook.models.pretrained import load_pretrained
from hook.tokenizers.stem import adapt_bands

VIT = dict(img_size=64, embed_dim=48, depth=3, num_heads=4, num_classes=5)


@pytest.fixture
def vit():
    return timm.create_model("vit_tiny_patch16_224", **VIT).eval()


def backbone(tokenizer, **options):
    options = dict(embed_dims=48, depth=3, num_heads=4, norm_eps=1e-6) | options
    return TokenViT(tokenizer=tokenizer, **options).eval()


def save(state, path):
    if path.suffix == ".safetensors":
        save_file({k: v.clone() for k, v in state.items()}, str(path))
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", ["vit.pth", "vit.safetensors"])
@pytest.mark.parametrize("nested", [False, True])
def test_blocks_of_a_timm_vit(hook_tokenizer, vit, tmp_path, name, nested):
    state = vit.state_dict()
    if nested and name.endswith("pth"):
        state = {"model": state, "epoch": 3}
    path = save(state, tmp_path / name)
    model = backbone(hook_tokenizer, init_cfg=dict(type="Pretrained", checkpoint=path))
    before = model.tokenizer.vectorization.queries.clone()
    model.init_weights()
    for ours, theirs in zip(model.blocks, vit.blocks, strict=True):
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
    assert torch.equal(model.tokenizer.vectorization.queries, before)


def test_a_whole_vit_behind_patch_embedding(patch_tokenizer, vit, tmp_path):
    path = save(vit.state_dict(), tmp_path / "vit.pth")
    model = backbone(patch_tokenizer | dict(with_cls_token=True), final_norm=True)
    report = load_pretrained(model, path)
    assert report["kept"] == []
    assert report["left_out"] == ["head.bias", "head.weight"]
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(image), vit.forward_features(image), atol=1e-5)


def test_positions_are_resampled_as_timm_does(patch_tokenizer, vit, tmp_path):
    path = save(vit.state_dict(), tmp_path / "vit.pth")
    model = backbone(patch_tokenizer | dict(img_size=96, with_cls_token=True), final_norm=True)
    load_pretrained(model, path)
    vit.set_input_size(img_size=96)
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.allclose(model(image), vit.forward_features(image), atol=1e-4)


def test_other_band_counts_adapt_as_timm_does(patch_tokenizer, vit, tmp_path):
    path = save(vit.state_dict(), tmp_path / "vit.pth")
    model = backbone(patch_tokenizer | dict(in_channels=1))
    load_pretrained(model, path)
    expected = vit.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    assert torch.allclose(model.tokenizer.proj.weight, expected, atol=1e-6)


def test_weights_of_another_run_of_ours(hook_tokenizer, tmp_path):
    source = backbone(hook_tokenizer)
    state = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    path = save({"state_dict": state | {"head.fc.weight": torch.rand(2, 48)}}, tmp_path / "a.pth")
    model = backbone(hook_tokenizer)
    assert load_pretrained(model, path)["kept"] == []
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(image), source(image))


def test_what_was_loaded_and_left_out_is_said(hook_tokenizer, vit, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        "hook.models.pretrained.print_log", lambda text, *args, **kwargs: said.append(text)
    )
    path = save(vit.state_dict(), tmp_path / "vit.pth")
    report = load_pretrained(backbone(hook_tokenizer, depth=2), path)
    assert len(report["loaded"]) == 24
    assert any(key.startswith("blocks.2.") for key in report["left_out"])
    assert "24 tensors loaded: blocks.0 (12), blocks.1 (12)" in said[0]
    assert "blocks.2 (12)" in said[1]
    assert "tokenizer.stem" in said[2]


def test_other_shapes_are_refused(hook_tokenizer, vit, tmp_path):
    path = save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="shapes of the weights differ") as error:
        load_pretrained(backbone(hook_tokenizer, embed_dims=64), path)
    assert "(48,)" in str(error.value)
    assert "(64,)" in str(error.value)


def test_no_block_at_all(hook_tokenizer, tmp_path):
    path = save({"conv.weight": torch.rand(2, 2)}, tmp_path / "cnn.pth")
    with pytest.raises(CheckpointError, match="holds no transformer block"):
        load_pretrained(backbone(hook_tokenizer), path)


def test_missing_file_and_unknown_name(hook_tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pretrained(backbone(hook_tokenizer), str(tmp_path / "none.pth"))
    with pytest.raises(CheckpointError, match="neither a file nor a timm model"):
        load_pretrained(backbone(hook_tokenizer), "vit_of_nobody")


@pytest.mark.parametrize("prefix", ["", "timm/", "timm://"])
def test_timm_name_without_network_names_the_file(hook_tokenizer, monkeypatch, prefix):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("hook.models.pretrained.timm.create_model", unreachable)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(backbone(hook_tokenizer), prefix + "vit_tiny_patch16_224")
    assert "model.safetensors" in str(error.value)
    assert "timm/vit_tiny_patch16_224" in str(error.value)


def test_timm_name_with_network(hook_tokenizer, monkeypatch, vit):
    monkeypatch.setattr("hook.models.pretrained.timm.create_model", lambda *a, **k: vit)
    model = backbone(hook_tokenizer)
    load_pretrained(model, "vit_tiny_patch16_224")
    assert torch.equal(model.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)


def test_a_pickle_with_code_is_refused(hook_tokenizer, tmp_path):
    trap = tmp_path / "trap"

    class Malicious:
        def __reduce__(self):
            return open, (str(trap), "w")

    torch.save({"blocks.0.norm1.weight": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError):
        load_pretrained(backbone(hook_tokenizer), str(tmp_path / "bad.pth"))
    assert not trap.exists()


def test_other_init_cfgs_are_refused(hook_tokenizer):
    model = backbone(hook_tokenizer, init_cfg=dict(type="Xavier"))
    with pytest.raises(ConfigError, match="init_cfg"):
        model.init_weights()


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 8])
def test_bands_that_are_equal_give_what_they_gave(bands):
    weight = torch.randn(6, 3, 2, 2)
    adapted = adapt_bands(weight, bands)
    assert adapted.shape == (6, bands, 2, 2)
    grey = torch.rand(1, 1, 8, 8)
    before = F.conv2d(grey.expand(-1, 3, -1, -1), weight, stride=2)
    after = F.conv2d(grey.expand(-1, bands, -1, -1), adapted, stride=2)
    assert torch.allclose(after, before, atol=1e-5)


def test_bands_take_weights_in_turn():
    weight = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    assert adapt_bands(weight, 4).flatten().tolist() == [0.5, 2.0, 4.0, 0.5]
    assert adapt_bands(weight, 2).flatten().tolist() == [3.0, 4.0]
    assert adapt_bands(weight, 3).equal(weight)


@pytest.mark.parametrize(("preset", "size"), [("reference", 32), ("fast", 48)])
def test_a_tokenizer_comes_along_with_other_bands(preset, size, tmp_path):
    tokenizer = dict(type="hook.HookTokenizer", preset=preset, seed_dims=16, num_tokens=4)
    options = dict(embed_dims=16, depth=1, num_heads=2)
    first = TokenViT(tokenizer=tokenizer | dict(img_size=32), **options).eval()
    path = save(first.state_dict(), tmp_path / "rgb.pth")
    second = backbone(tokenizer | dict(img_size=size, in_channels=8), norm_eps=1e-5, **options)
    load_pretrained(second, path)
    grey = torch.rand(1, 1, 32, 32)
    expected = first(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(second(grey.expand(-1, 8, -1, -1)), expected, atol=1e-5)


def test_learned_positions_of_seeds_are_resized(tmp_path):
    tokenizer = dict(type="hook.HookTokenizer", seed_dims=16, perception_window=4)
    options = dict(embed_dims=16, depth=1, num_heads=2)
    first = backbone(tokenizer | dict(img_size=32), **options)
    second = backbone(tokenizer | dict(img_size=48), **options)
    load_pretrained(second, save(first.state_dict(), tmp_path / "small.pth"))
    image = torch.rand(1, 3, 48, 48)
    assert torch.allclose(second(image), first(image), atol=1e-5)


def test_learned_positions_of_patches_are_resampled(tmp_path):
    tokenizer = dict(type="hook.PatchEmbedTokenizer", patch_size=8, with_pos_embed=True)
    options = dict(embed_dims=16, depth=1, num_heads=2)
    first = backbone(tokenizer | dict(img_size=32), **options)
    second = backbone(tokenizer | dict(img_size=(48, 32)), **options)
    load_pretrained(second, save(first.state_dict(), tmp_path / "small.pth"))
    expected = resample_abs_pos_embed(
        first.tokenizer.pos_embed, [6, 4], [4, 4], num_prefix_tokens=0
    )
    assert torch.allclose(second.tokenizer.pos_embed, expected, atol=1e-6)
