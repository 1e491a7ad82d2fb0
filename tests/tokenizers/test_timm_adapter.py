import pytest
import timm
import torch

from hook.tokenizers import HookEmbed, dense_features, dense_intermediate_layers


def build(**options):
    embed = HookEmbed.configure(seed_dims=32, num_tokens=7)
    options = (
        dict(embed_layer=embed, img_size=32, embed_dim=48, depth=3, num_heads=4, num_classes=5)
        | options
    )
    return timm.create_model("vit_tiny_patch16_224", **options)


def test_forward_and_training_step():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    image, label = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert model.patch_embed.tokenizer.vectorization.queries.grad.abs().sum() > 0


def test_forward_features_has_class_token_and_tokens():
    assert build().forward_features(torch.rand(2, 3, 32, 32)).shape == (2, 8, 48)


def test_other_band_counts():
    assert build(in_chans=5)(torch.rand(1, 5, 32, 32)).shape == (1, 5)


def test_logits_equal_our_classifiers():
    """timm's ViT without positions, norm and class token is our classifier, weight for weight."""
    from hook.models import TokenClassifier

    ours = TokenClassifier(
        backbone=dict(
            type="hook.TokenViT",
            tokenizer=dict(type="hook.HookTokenizer", img_size=32, seed_dims=32, num_tokens=7),
            embed_dims=48,
            depth=3,
            num_heads=4,
        ),
        head=dict(type="hook.LinearClsHead", num_classes=5, in_channels=48),
    ).eval()
    theirs = build(
        pos_embed="none",
        final_norm=False,
        class_token=False,
        global_pool="avg",
        norm_layer=torch.nn.LayerNorm,
    ).eval()
    state = {}
    for key, value in ours.state_dict().items():
        key = key.removeprefix("backbone.").replace("tokenizer.", "patch_embed.tokenizer.")
        state[key.replace("head.fc.", "head.")] = value
    theirs.load_state_dict(state, strict=True)
    image = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(image), ours(image), atol=1e-5)


def test_a_grid_of_tokens_is_refused_with_the_way_out():
    model = build()
    with pytest.raises(ValueError, match="dense_intermediate_layers"):
        model.get_intermediate_layers(torch.rand(1, 3, 32, 32), reshape=True)
    layers = model.get_intermediate_layers(torch.rand(1, 3, 32, 32), n=2, reshape=False)
    assert [layer.shape for layer in layers] == [(1, 7, 48)] * 2


def test_dense_maps_come_through_the_assignment():
    model = build().eval()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        maps = dense_intermediate_layers(model, image, n=[0, 2], size=(8, 8))
        tokens = model.get_intermediate_layers(image, n=[0, 2])
        assignment = model.patch_embed.tokenizer(image).assignment
    for dense, layer in zip(maps, tokens, strict=True):
        assert torch.allclose(dense, dense_features(layer, assignment, (8, 8)), atol=1e-5)


def test_dense_maps_of_a_patch_vit_are_refused():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    with pytest.raises(ValueError, match="expected HookEmbed"):
        dense_intermediate_layers(model, torch.rand(1, 3, 32, 32))


def test_dynamic_sizes_are_refused():
    with pytest.raises(ValueError, match="dynamic_img_size=False"):
        build(dynamic_img_size=True)


@pytest.mark.parametrize("preset", ["reference", "fast"])
def test_input_size_can_be_set(preset):
    embed = HookEmbed.configure(preset=preset, num_tokens=5, seed_dims=32)
    model = build(embed_layer=embed, pos_embed="none").eval()
    model.set_input_size(img_size=(48, 40))
    assert model.patch_embed.grid_size == (12, 10)
    assert model(torch.rand(1, 3, 48, 40)).shape == (1, model.num_classes)


def test_contract_of_patch_embed():
    embed = HookEmbed(img_size=32, embed_dim=48, seed_dims=32, num_tokens=7)
    assert embed.num_patches == 7
    assert embed.grid_size == (8, 8)
    assert embed.feat_ratio() == 4
    assert embed.feat_ratio(as_scalar=False) == (4, 4)
