"""Cut large labelled images into tiles: what the two segmentation data sets share."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from preparing import progress, rank
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from hook.errors import DataError


@dataclass(frozen=True)
class Scene:
    """A large image and its mask."""

    name: str
    image: Path
    mask: Path


@contextmanager
def opened(path: Path) -> Iterator[DatasetReader]:
    """Open an image file, which need not be georeferenced.

    Args:
        path: Any raster that GDAL reads.

    Yields:
        The open raster.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                yield file
    except RasterioError as error:
        raise DataError(
            f"{path} cannot be read",
            expected="an undamaged image",
            found=error,
            remedy="download it again",
        ) from error


def read_window(path: Path, window: Window | None = None) -> np.ndarray:
    """Read a window of an image file, (C, H, W); None reads all."""
    with opened(path) as file:
        return file.read(window=window)


def colours_to_indexes(
    colours: np.ndarray, index_of: Mapping[tuple[int, int, int], int], path: Path
) -> np.ndarray:
    """Turn a colour mask into an index mask.

    Args:
        colours: (3, H, W) uint8.
        index_of: Index of each colour.
        path: File, for messages.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: If the mask holds another colour.
    """
    codes = (
        colours[0].astype(np.uint32) << 16
        | colours[1].astype(np.uint32) << 8
        | colours[2].astype(np.uint32)
    )
    indexes = np.full(codes.shape, 255, dtype=np.uint8)
    for (red, green, blue), index in index_of.items():
        indexes[codes == (red << 16 | green << 8 | blue)] = index
    if (indexes == 255).any():
        code = int(codes[indexes == 255][0])
        raise DataError(
            f"{path} holds a colour that means no class",
            expected=", ".join(str(colour) for colour in index_of),
            found=(code >> 16, code >> 8 & 255, code & 255),
            remedy="use the masks of the original download, not resampled or JPEG copies",
        )
    return indexes


def divide_scenes(
    scenes: Sequence[Scene], train: int, test: int, seed: int
) -> dict[str, list[Scene]]:
    """Share scenes out to training and testing, so that no scene gives tiles to both.

    Args:
        scenes: All scenes.
        train: Number of training tiles wanted.
        test: Number of test tiles wanted.
        seed: Seed of the draw.

    Returns:
        Scenes per split, in the proportion of the tiles.

    Raises:
        DataError: If there are fewer than two scenes.
    """
    if len(scenes) < 2:
        raise DataError(
            "too few scenes for two splits",
            expected="at least 2",
            found=len(scenes),
            remedy="give the whole download",
        )
    by_name = {scene.name: scene for scene in scenes}
    ranked = [by_name[name] for name in rank(by_name, seed)]
    cut = min(max(round(len(ranked) * train / (train + test)), 1), len(ranked) - 1)
    return {"train": ranked[:cut], "test": ranked[cut:]}


def cut_tiles(
    scenes: Sequence[Scene],
    count: int,
    size: int,
    seed: int,
    read_image: Callable[[Scene, Window], np.ndarray],
    read_labels: Callable[[Scene, Window], np.ndarray],
    unlabelled: int,
    write: Callable[[str, np.ndarray, np.ndarray], None],
    description: str,
) -> int:
    """Draw tiles from scenes and write them.

    The tiles lie on a grid from each scene's upper left corner and do not overlap; what is left at
    the right and lower edge is not used, and tiles without any label are passed over.

    Args:
        scenes: Where to cut.
        count: How many tiles.
        size: Side of a tile in pixels.
        seed: Seed of the draw.
        read_image: Gives the (3, H, W) image of a window of a scene.
        read_labels: Gives the (H, W) index mask of a window of a scene.
        unlabelled: The index that means no label.
        write: Writes the tile of a name: image (3, H, W) and mask (H, W).
        description: Of the progress bar.

    Returns:
        Number of tiles written: ``count``, or fewer where the scenes have no more.
    """
    places = {}
    for scene in scenes:
        with opened(scene.image) as image, opened(scene.mask) as mask:
            (height, width), mask_shape = image.shape, mask.shape
        if mask_shape != (height, width):
            raise DataError(
                f"{scene.mask} does not fit {scene.image}",
                expected=f"{height} x {width} pixels",
                found=f"{mask_shape[0]} x {mask_shape[1]}",
                remedy="download the pair again",
            )
        for row in range(0, height - size + 1, size):
            for column in range(0, width - size + 1, size):
                places[f"{scene.name}_{row}_{column}"] = (scene, Window(column, row, size, size))
    labelled = {
        name
        for name, (scene, window) in progress(list(places.items()), f"{description}: reading masks")
        if (read_labels(scene, window) != unlabelled).any()
    }
    chosen = set([name for name in rank(places, seed) if name in labelled][:count])
    # Scene by scene, so that what reads whole files reads each once.
    for name in progress([name for name in places if name in chosen], f"{description}: writing"):
        scene, window = places[name]
        write(name, read_image(scene, window), read_labels(scene, window))
    return len(chosen)
