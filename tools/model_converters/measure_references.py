"""Quantities of the official evaluations of codecs; see ``codec_references.py``."""

import re

import numpy as np
import torch
from codec_references import Golden, covers
from torch import Tensor
from torchmetrics.functional.text import char_error_rate, word_error_rate

from hook.datasets.transforms import changes
from hook.evaluation import alignment, vtbench
from hook.evaluation.reconstruction import measure_reconstruction

PAIR = ("original", "reconstruction")


# In float32, the terms of the unbiased estimate cancel where all rows are neighbours.
@covers(
    "vfmvae_cknna",
    inputs=("a", "b_*"),
    bars=(("cka_unbiased", 1e-4, 1e-4), ("cknna", 1e-5, 1e-5)),
)
def check_alignment(file: Golden) -> dict[str, Tensor]:
    given = {name: x for name, x in file.io.items() if name == "a" or name.startswith("b_")}
    prepared = {name: alignment.prepare_features(value) for name, value in given.items()}
    ours = {f"prepared_{name}": value for name, value in prepared.items()}
    for name in file.io:
        if match := re.fullmatch(r"prepared_(\w+)_q([\d.]+)_average", name):
            features, quantile = given[match[1]], float(match[2])
            ours[name] = alignment.prepare_features(features, quantile, exact=False)
    numbers, a = {}, prepared.pop("a")
    for name, b in {"b_self": a, **prepared}.items():
        short = name.removeprefix("b_")
        numbers[f"cka_{short}"] = alignment.cka(a, b)
        numbers[f"cka_unbiased_{short}"] = alignment.cka(a, b, unbiased=True)
        numbers[f"hsic_unbiased_a_{short}"] = alignment.hsic(a @ a.T, b @ b.T)
        for k in file.config["topk"]:
            numbers[f"cknna_{short}_k{k}"] = alignment.cknna(a, b, k)
            numbers[f"cknna_biased_{short}_k{k}"] = alignment.cknna(a, b, k, unbiased=False)
            numbers[f"mutual_knn_{short}_k{k}"] = alignment.mutual_knn(a, b, k)
    return ours | {name: torch.as_tensor(value) for name, value in numbers.items()}


@covers("vfmvae_transforms", inputs=("image",))
def check_changes(file: Golden) -> dict[str, Tensor]:
    image, ours = file.io["image"].numpy(), {}
    for name, value in file.io.items():
        if match := re.fullmatch(r"rot(\d+)", name):
            ours[name] = changes.rotate(image, int(match[1]))
        elif match := re.fullmatch(r"noise([\d.]+)_idx(\d+)_seed(\d+)", name):
            sigma, index, seed = match.groups()
            ours[name] = changes.add_noise(image, float(sigma), int(index), int(seed))
        elif match := re.fullmatch(r"params_(rotation|scale)_seed(\d+)", name):
            draws = [changes.draw_rotation(i, int(match[2])) for i in range(len(value))]
            ours[name] = np.array(draws, value.numpy().dtype)[:, int(match[1] == "scale")]
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in ours.items()}


@covers("vtbench_image_metrics", inputs=[f"{name}_*" for name in PAIR])
def check_vtbench_images(file: Golden) -> dict[str, Tensor]:
    size, count = file.config["image_size"], sum(name.startswith("original_") for name in file.io)
    original, decoded = (
        vtbench.resized([file.io[f"{name}_{i}"].numpy() for i in range(count)], size)
        for name in PAIR
    )
    each = [measure_reconstruction(*pair, 1.0) for pair in zip(original, decoded, strict=True)]
    ours = {
        "resized_original_0_row0": original[0, :, 0],
        "target_min_max": torch.stack([original.min(), original.max()]),
        "psnr_per_image_range1": torch.tensor([one.psnr for one in each]),
        "ssim_per_image_range1": torch.tensor([one.ssim.mean() for one in each]),
    }
    for batch in file.config["batch_sizes"]:
        scores = vtbench.image_scores(original, decoded, batch)
        ours |= {f"{key}_batch{batch}": torch.tensor(value) for key, value in scores.items()}
    return ours


@covers("vtbench_preprocess", inputs=("image",))
def check_vtbench_files(file: Golden) -> dict[str, Tensor]:
    image, ours = file.io["image"].numpy(), {}
    for name, value in file.io.items():
        if name.startswith("tensor_"):
            how, signed = name.removeprefix("tensor_").removesuffix("01"), not name.endswith("01")
            size = None if how == "keep" else tuple(value.shape[1:])
            ours[name] = vtbench.to_model(image, size, how, signed)
            saved = name.replace("tensor", "saved")
            ours[saved] = torch.from_numpy(vtbench.to_file(ours[name], signed))
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    ours["ramp_roundtrip"] = torch.from_numpy(
        vtbench.to_file(vtbench.to_model(ramp, None))[0, :, 0]
    )
    return ours


@covers("vtbench_text_metrics", inputs=("target_*", "prediction_*"))
def check_vtbench_texts(file: Golden) -> dict[str, Tensor]:
    def read(name: str) -> list[str]:
        count = sum(key.startswith(f"{name}_") for key in file.io)
        codes = [file.io[f"{name}_{i}"].tolist() for i in range(count)]
        return ["".join(map(chr, code)) if code != [-1] else "" for code in codes]

    targets, predictions = read("target"), read("prediction")
    scores = vtbench.text_scores(predictions, targets)
    scores |= {f"{key}_total": scores.pop(key) for key in ("cer", "wer")}
    kept = [pair for pair in zip(predictions, targets, strict=True) if pair[1]]
    scores["standard_cer_nonempty"] = char_error_rate(*zip(*kept, strict=True))
    scores["standard_wer_nonempty"] = word_error_rate(*zip(*kept, strict=True))
    return scores
