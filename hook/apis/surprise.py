"""How unexpected the parts of a scene are to a generator."""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from hook.apis.coding import SceneEncoder
from hook.arguments import bad_argument, check_int, check_path
from hook.engine.devices import list_devices
from hook.geo.arrays import read_image, require_xarray
from hook.geo.raster import open_raster, quiet_open
from hook.geo.staging import atomic_write, check_output, exists
from hook.inference.codes import codec_of
from hook.inference.entropy import check_code_generator, unknown_labels
from hook.inference.models import Model, load_model, model_files, name_of
from hook.inference.scenes import digest_of
from hook.inference.surprise import code_bits
from hook.scenes.request import EncodingRequest

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class SurpriseReport:
    """What :func:`surprise_map` found.

    Attributes:
        path: The file.
        positions: Number of positions with data.
        mean: Mean bits of a position.
        highest: Bits that one position in a hundred exceeds.
    """

    path: Path
    positions: int
    mean: float
    highest: float

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.positions} positions, {self.mean:.2f} bits on average, one in a "
            f"hundred above {self.highest:.2f}"
        )


def surprise_map(
    model: Model,
    input: Any,
    output: str | os.PathLike | None = None,
    *,
    bounds: Any = None,
    bidx: Any = None,
    nodata: Any = None,
    batch_size: int = 64,
    device: str = "cpu",
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> "SurpriseReport | xarray.DataArray":
    """Map how unexpected the parts of a scene are to a generator of codes.

    The scene is coded by the generator's autoencoder. A pixel of the map is a code (``stride``
    pixels of the scene), and its value is minus the binary logarithm of the probability of that
    code, given those above and to the left of it (:func:`hook.inference.surprise.code_bits`). Large
    values are what the training data did not show, or did not show beside these surroundings; also
    noise and fine texture, which is hard to predict anywhere. The codes of the scene are held in
    memory.

    Args:
        model: A :class:`hook.models.generators.TileGenerator` of codes, trained with
            ``label_drop`` or without condition; a loaded one, or argument of
            :func:`hook.apis.load_model`. Its autoencoder must code windows alone, as for
            :func:`hook.apis.encode`.
        input: The scene, as for :func:`hook.apis.encode`.
        output: GeoTIFF of one band, float32, NaN without data; None returns an array.
        bounds: Part of the scene (left, bottom, right, top) in its CRS, see :func:`encode`.
        bidx: Bands of the scene, likewise.
        nodata: Its value for no data, likewise.
        batch_size: Windows per batch.
        device: Device of a model that is not loaded yet.
        threads: CPU threads.
        overwrite: Replace an existing file.
        progress: Show progress bars on a terminal.

    Returns:
        A report; without ``output`` the map (band, y, x).

    Raises:
        ConfigError: An option cannot be used, or the model is no generator of codes, or knows no
            unknown class, or the file exists.
        DataError: The scene lacks the model's bands.
        SceneError: The file cannot be written, or see :func:`hook.apis.encode`.

    Example:
        >>> print(surprise_map(("config.py", "checkpoint.pth"), "scene.tif", "surprise.tif"))
    """
    check_int("batch_size", batch_size)
    if output is None:
        require_xarray("the map")
    else:
        check_path("output", output, "the name of a file")
        if Path(output).suffix.lower() not in (".tif", ".tiff"):
            raise bad_argument("output", output, "the name of a GeoTIFF, .tif")
        if exists(output) and not overwrite:
            remedy = "choose another name, or replace the file with overwrite"
            raise bad_argument("output", output, "a file that does not exist", remedy)
    generator = load_model(model, device=list_devices(device)[0])
    check_code_generator(generator)
    unknown_labels(generator.network, 1)
    encoder = SceneEncoder(codec_of(generator), device=device, threads=threads)
    with TemporaryDirectory(prefix="hook-") as folder:
        file = Path(folder, "codes.tif")
        options = dict(bounds=bounds, bidx=bidx, nodata=nodata, errors=False, progress=progress)
        request = EncodingRequest(input, file, **options)
        inputs = [*(() if request.has_arrays else request.input), *model_files(generator)]
        if output is not None:
            check_output(output, inputs)
        encoder.run(request)
        with open_raster(file) as source:
            count = len(generator.network.codebook_sizes)
            codes, nothing = source.read(list(range(1, count + 1))), source.nodata
            grid = dict(crs=source.crs, transform=source.transform)
        bits = code_bits(generator, codes, codes[0] != nothing, batch_size, progress)
        tags = {
            "TIFFTAG_IMAGEDESCRIPTION": "Bits of a code, given those above and to the left of it",
            "GENERATOR": name_of(generator),
            "GENERATOR_SHA256": digest_of(generator.state_dict()),
        }
        if output is None:
            _write(Path(folder, "surprise.tif"), bits, tags, grid)
            return read_image(Path(folder, "surprise.tif"))
        with atomic_write(output, inputs) as partial:
            _write(partial, bits, tags, grid)
    found = bits[np.isfinite(bits)]
    mean, highest = (found.mean(), np.quantile(found, 0.99)) if found.size else (np.nan, np.nan)
    return SurpriseReport(Path(output), int(found.size), float(mean), float(highest))


def _write(path: Path, bits: np.ndarray, tags: dict[str, str], grid: dict[str, Any]) -> None:
    profile = dict(driver="GTiff", count=1, height=bits.shape[0], width=bits.shape[1])
    profile |= dict(dtype="float32", nodata=np.nan, compress="deflate", predictor=3, tiled=True)
    with quiet_open(path, "w", **profile, **grid) as sink:
        sink.update_tags(**tags)
        sink.set_band_description(1, "surprise")
        sink.set_band_unit(1, "bit")
        sink.write(bits, 1)
