"""The converters and the check against the official numbers, as commands."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

FILES = [
    "hook_classification_even",
    "hook_classification_odd",
    "hook_segmentation",
    "patch_embed_classification",
]


def run(repo, name, *args):
    return subprocess.run(
        [sys.executable, repo / "tools/model_converters" / f"{name}.py", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_official_codecs_are_met(repo, golden):
    files = sorted((golden / "codecs").glob("*.safetensors"))
    result = run(repo, "check_reference", *files)
    assert "FAIL" not in result.stdout, result.stdout
    assert result.returncode == 0, result.stderr
    for system in ("ibq", "magvit2", "rq", "vavae", "vfmvae", "lightningdit", "atoken", "slotmllm"):
        assert f"/{system}" in result.stdout


def read(path):
    with safe_open(str(path), framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()


def test_all_official_numbers_are_met(repo, golden):
    result = run(repo, "check_reference", *(golden / f"{name}.safetensors" for name in FILES))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 of 4 files pass" in result.stdout
    assert "FAIL" not in result.stdout
    assert "grad_queries" in result.stdout


@pytest.fixture(scope="module")
def spoiled(golden, tmp_path_factory):
    """Copies of one file with one error each."""
    folder = tmp_path_factory.mktemp("spoiled")
    tensors, meta = read(golden / "hook_classification_even.safetensors")
    config = json.loads(meta["config"])

    def write(name, changed, config=config):
        path = folder / f"{name}.safetensors"
        save_file(changed, str(path), {"config": json.dumps(config)})
        return path

    state = {k: v for k, v in tensors.items() if k.startswith("state/")}
    image = {"io/image": tensors["io/image"]}
    return {
        "value": write("value", tensors | {"io/tokens": tensors["io/tokens"] + 2e-5}),
        "gradient": write("gradient", tensors | {"io/grad_stem": tensors["io/grad_stem"] * 1.001}),
        "nan": write("nan", tensors | {"io/tokens": tensors["io/tokens"] * float("nan")}),
        "shape": write("shape", tensors | {"io/tokens": tensors["io/tokens"][:1]}),
        "unknown": write("unknown", tensors | {"io/secret": torch.rand(3)}),
        "nothing": write("nothing", state | image),
        "weights": write("weights", {k: v for k, v in tensors.items() if "query" not in k}),
        "key": write("key", tensors, config | {"dropout": 0.5}),
        "task": write("task", tensors, config | {"task": "detection"}),
        "size": write("size", tensors, config | {"image_size": 64}),
        "sizes": write("sizes", tensors, ["image_size", 32]),
        "width": write("width", tensors, config | {"embed_dim": "wide"}),
        "label": write("label", tensors | {"io/label": tensors["io/label"] + 50}),
    }


def test_whatever_is_wrong_fails(repo, golden, spoiled):
    good = golden / "hook_classification_even.safetensors"
    result = run(repo, "check_reference", good, *spoiled.values(), good.parent / "none.safetensors")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    parts = {}
    for block in result.stdout.split("\n\n"):
        parts[block.strip().split("\n")[0].rsplit("/", 1)[-1].removesuffix(".safetensors")] = block
    assert "FAIL" not in parts["hook_classification_even"]
    for name in [*spoiled, "none"]:
        assert "FAIL" in parts[name], name
    assert f"1 of {len(spoiled) + 2} files pass" in result.stdout


def test_whatever_is_wrong_with_a_codec_fails(repo, golden, tmp_path):
    spoiled = []
    for name, key in (
        ("rq_eval_shared_depth4", "io/z_q"),
        ("rq_eval_shared_depth4", "io/codes"),
        ("gan_loss_ibq", "io/grad_last_layer"),
        ("ibq_autoencoder", "io/reconstruction"),
        ("ibq_autoencoder", "io/total"),
    ):
        tensors, meta = read(golden / "codecs" / f"{name}.safetensors")
        value = tensors[key]
        changed = value + 1 if value.dtype == torch.int64 else value * 1.001 + 1e-3
        for number, content in enumerate(
            (tensors | {key: changed}, tensors | {"io/other": value.clone()})
        ):
            path = tmp_path / f"{name}_{key[3:]}_{number}.safetensors"
            save_file(content, str(path), meta)
            spoiled.append(path)
    result = run(repo, "check_reference", *spoiled)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert f"0 of {len(spoiled)} files pass" in result.stdout


def test_convert_there_and_back(repo, golden, tmp_path):
    tensors, _ = read(golden / "hook_segmentation.safetensors")
    official = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    save_file(official, str(tmp_path / "official.safetensors"))
    there = run(repo, "reference2hook", tmp_path / "official.safetensors", tmp_path / "ours.pth")
    assert there.returncode == 0, there.stderr
    back = run(repo, "hook2reference", tmp_path / "ours.pth", tmp_path / "back.safetensors")
    assert back.returncode == 0, back.stderr
    returned, _ = read(tmp_path / "back.safetensors")
    assert returned.keys() == official.keys()
    assert all(torch.equal(returned[k], official[k]) for k in official)


def test_official_codecs_are_converted_without_their_losses(repo, golden, tmp_path):
    tensors, _ = read(golden / "codecs" / "ibq_autoencoder.safetensors")
    official = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    losses = {"loss.discriminator.main.0.bias": torch.rand(2)}
    save_file(official | losses, str(tmp_path / "official.safetensors"))
    done = run(repo, "reference2codec", tmp_path / "official.safetensors", tmp_path / "ours.pth")
    assert done.returncode == 0, done.stderr
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    assert len(ours) == len(official)
    assert torch.equal(ours["quantizer.codebook"], official["quantize.embedding.weight"])
    assert torch.equal(ours["encoder.quant_conv.bias"], official["quant_conv.bias"])


def test_official_codecs_over_space_and_time_are_converted(repo, golden, tmp_path):
    tensors, _ = read(golden / "codecs" / "atoken_autoencoder_a.safetensors")
    official = {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    save_file(official, str(tmp_path / "official.safetensors"))
    done = run(repo, "reference2codec", tmp_path / "official.safetensors", tmp_path / "ours.pth")
    assert done.returncode == 0, done.stderr
    ours = torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"]
    assert len(ours) == len(official)
    assert torch.equal(ours["encoder.proj.weight"], official["proj.weight"])
    table = official["encoder.pos_embedder.position_embedding.weight"]
    assert torch.equal(ours["encoder.tokenizer.table.weight"], table)
    assert torch.equal(ours["decoder.outs.0.weight"], official["decoder.out_layer.weight"])


def test_convert_refuses_what_it_does_not_know(repo, tmp_path):
    torch.save({"something.weight": torch.rand(2)}, tmp_path / "other.pth")
    result = run(repo, "reference2hook", tmp_path / "other.pth", tmp_path / "out.pth")
    assert result.returncode == 1
    assert "something.weight" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.pth").exists()
