"""MMEngine dataset of GeoTIFFs with the layers of several dates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hook.datasets.chips import ChipReader
from hook.datasets.geotiff_folder import GeoTIFFFolder
from hook.datasets.samplers import ChipQuery
from hook.datasets.scene_files import Scene, list_scene_files
from hook.errors import ConfigError, DataError
from hook.geo.dates import date_layers, read_dates, to_days
from hook.geo.raster import open_raster
from hook.registry import DATASETS


@DATASETS.register_module()
class GeoTIFFSeries(GeoTIFFFolder):
    """Folders of GeoTIFFs, each a time series: the bands of one date after those of another.

    Layer ``date * C + band`` (from 0) of a file is one of the C bands of ``metainfo['bands']`` at a
    date. The dates are ``metainfo['dates']`` if all files share them, else those of each file
    (:func:`hook.geo.dates.read_dates`): ISO dates, days since 1970-01-01, or None where the image
    is missing. All files have as many dates; fill up with nodata.

    Samples are those of :class:`GeoTIFFFolder`, with ``img`` (H, W, T * C), ``valid`` (H, W, T)
    uint8, of which a pixel is valid at a date if all its bands are (clouds are nodata, or NaN), and
    ``dates``, T days. The packing transforms make ``inputs`` (T, C, H, W) of them. Labels are those
    of all dates. ``metainfo['wavelengths']``, in nanometres, goes to models that need it.

    Args:
        align: Rows and columns of chips are multiples of it: 2 if bands of 20 m stand among those
            of 10 m, so that a chip does not begin within a pixel of theirs. Up to ``align - 1``
            rows and columns at the start of a split are left out.
        **options: Those of :class:`GeoTIFFFolder`.

    Raises:
        ConfigError: As :class:`GeoTIFFFolder`; or ``metainfo['bands']`` is missing.
        DataError: As :class:`GeoTIFFFolder`; or dates are missing or do not fit the layers.
    """

    def __init__(self, *args: Any, align: int = 1, **options: Any) -> None:
        bands = (options.get("metainfo") or {}).get("bands")
        sides = np.atleast_1d(options.get("chip_size", 256))
        dates = (options.get("metainfo") or {}).get("dates")
        if dates is not None and not (np.ndim(dates) == 1 and len(dates)):
            raise ConfigError(
                "GeoTIFFSeries: metainfo['dates']",
                expected="a list of dates, or None: each file has its own",
                found=dates,
                remedy="list them, or remove the key",
            )
        if not bands or align < 1 or (sides % align).any():
            raise ConfigError(
                "GeoTIFFSeries: metainfo['bands'] or align",
                expected="the bands of a date, and a chip_size that is a multiple of align",
                found=f"bands={bands}, align={align}, chip_size={sides.tolist()}",
                remedy="set them",
            )
        self.align, self.num_bands = align, len(bands)
        self.dates: dict[str, list[float]] = {}
        super().__init__(*args, **options)

    @property
    def num_dates(self) -> int:
        """Number of dates T."""
        return len(next(iter(self.dates.values())))

    @property
    def layers(self) -> Sequence[int]:
        """1-based layers of all dates."""
        return range(1, self.num_dates * self.num_bands + 1)

    def load_data_list(self) -> list[dict]:
        """Find the series, their dates and masks, and list the chips of the cover."""
        files, shared = list_scene_files(self.options)[0], self._metainfo.get("dates")
        for path in files:
            with open_raster(path) as source:
                dates = read_dates(source, self.num_bands) if shared is None else shared
                self.dates[path] = to_days(dates, path)
                layers = len(date_layers(source, self.num_bands))
                if layers != len(dates) * self.num_bands or len(dates) != self.num_dates:
                    raise DataError(
                        f"{path}: its layers do not fit the dates",
                        expected=f"{self.num_dates} dates of {self.num_bands} bands",
                        found=f"{source.count} layers, {len(dates)} dates",
                        remedy="correct metainfo['dates'] and metainfo['bands'], or fill up with "
                        "layers of nodata",
                    )
        meta = {"bands": self.layers}
        for key in {"scale", "offset"} & set(self._metainfo):
            values = self._metainfo[key]
            meta[key] = [*values] * self.num_dates if isinstance(values, Sequence) else values
        self.reader = ChipReader(self.chip_size, meta)
        return super().load_data_list()

    def _place(self, scene: Scene) -> Scene:
        row, col, height, width = scene.window
        down, right = -row % self.align, -col % self.align
        return replace(scene, window=(row + down, col + right, height - down, width - right))

    def _chip_info(self, scene: int, row: int, col: int) -> dict:
        return super()._chip_info(scene, row - row % self.align, col - col % self.align)

    def _valid(self, known: np.ndarray) -> np.ndarray:
        by_date = known.reshape(self.num_dates, self.num_bands, *known.shape[1:])
        return by_date.all(axis=1).transpose(1, 2, 0)  # H W T

    def load_sample(self, idx: int | ChipQuery) -> dict[str, Any]:
        """Read a chip of all dates as the sample dictionary documented for the class."""
        results = super().load_sample(idx)
        results["dates"] = self.dates[results["img_path"]]
        return results
