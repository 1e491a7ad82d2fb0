import pytest
import torch
from safetensors.torch import load_file

from hook.errors import CheckpointError
from hook.models.converters import hook_to_reference, reference_to_hook, save_weights


@pytest.mark.parametrize(
    "name",
    [
        "hook_classification_even",
        "hook_classification_odd",
        "hook_segmentation",
        "patch_embed_classification",
    ],
)
def test_there_and_back(golden, name):
    tensors = load_file(golden / f"{name}.safetensors")
    official = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    ours = reference_to_hook(official)
    assert len(ours) == len(official)
    back = hook_to_reference(ours)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) for key in official)


def test_names():
    value = torch.rand(1)
    official = {
        "tokenizer.query": value,
        "tokenizer.cls_token": value,
        "tokenizer.semantic_module.1.mlp.fc2.bias": value,
        "backbone.module.11.norm1.weight": value,
        "taskHead.linear_c4.proj.weight": value,
    }
    assert list(reference_to_hook(official)) == [
        "backbone.tokenizer.vectorization.queries",
        "backbone.tokenizer.cls_token",
        "backbone.tokenizer.perception.blocks.1.mlp.fc2.bias",
        "backbone.blocks.11.norm1.weight",
        "decode_head.projections.3.weight",
    ]


def test_prefix_of_a_distributed_run():
    state = {"module.taskHead.fc.bias": torch.rand(2)}
    assert list(reference_to_hook(state)) == ["head.fc.bias"]


def test_a_plain_sequence_of_parts():
    state = {"0.proj.bias": 1, "1.module.3.norm1.bias": 2, "2.fc.weight": 3}
    assert reference_to_hook(state) == {
        "backbone.tokenizer.proj.bias": 1,
        "backbone.blocks.3.norm1.bias": 2,
        "head.fc.weight": 3,
    }


def test_unknown_keys_are_named():
    with pytest.raises(CheckpointError, match="1 keys") as error:
        reference_to_hook({"tokenizer.queries": torch.rand(1)})
    assert "tokenizer.queries" in str(error.value)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_save_weights(tmp_path, name):
    from hook.checkpoint import get_state_dict, load_checkpoint

    state = {"a": torch.rand(2, 3), "b": torch.arange(3)}
    save_weights(state, tmp_path / name)
    loaded = get_state_dict(load_checkpoint(tmp_path / name))
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with pytest.raises(CheckpointError, match="exists"):
        save_weights(state, tmp_path / name)
    save_weights({"a": torch.ones(1)}, tmp_path / name, overwrite=True)
    with pytest.raises(CheckpointError, match="folder"):
        save_weights(state, tmp_path / "none" / name)
