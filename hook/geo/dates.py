"""Dates of the layers of a raster that holds a time series."""

import datetime
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from hook.errors import DataError
from hook.geo.bands import image_bands

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_ISO = re.compile(r"^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?")
_FIRST, _LAST = (datetime.date(year, 1, 1).toordinal() - _EPOCH for year in (1800, 2200))
_IN_NAME = re.compile(r"(?<!\d)(20\d\d|19\d\d)([-_]?)(\d\d)\2(\d\d)(?!\d)")


def to_days(dates: Sequence[str | float | None], where: str) -> list[float]:
    """Return dates as days since 1970-01-01, NaN where there is none.

    Args:
        dates: ISO dates such as ``2018-04-29``, with or without a time of day (UTC if it has no
            zone), the same as datetimes, days as numbers, or None.
        where: Where they are from, for the error.

    Raises:
        DataError: One of them is no date, or not one of the years 1800 to 2199.
    """
    days = []
    for date in dates:
        try:
            if date is None or date != date:
                days.append(float("nan"))
                continue
            day = date
            if isinstance(date, str | datetime.date | np.datetime64):
                moment = datetime.datetime.fromisoformat(str(date).strip())
                if moment.tzinfo is not None:
                    moment = moment.astimezone(datetime.UTC)
                day = moment.toordinal() - _EPOCH + (moment.hour + moment.minute / 60) / 24
            if isinstance(date, bool) or not _FIRST <= float(day) < _LAST:
                raise ValueError("out of range")
            days.append(float(day))
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{where}: not a date",
                expected="ISO dates such as 2018-04-29, numbers of days since 1970-01-01, or null, "
                "of the years 1800 to 2199",
                found=repr(date),
                remedy="correct the dates; 20180429 without quotes is a number of days",
            ) from None
    return days


def to_iso(day: float) -> str:
    """Return the ISO date of days since 1970-01-01, with the time of day if it is not midnight."""
    moment = datetime.datetime.fromordinal(_EPOCH) + datetime.timedelta(minutes=round(day * 1440))
    whole = (moment.hour, moment.minute) == (0, 0)
    return moment.date().isoformat() if whole else moment.isoformat(timespec="minutes")


def without_date(description: str | None) -> str:
    """Return the description of a layer without the date at its beginning."""
    return _ISO.sub("", description or "", count=1).strip(" _")


def date_layers(source: DatasetReader, num_bands: int) -> list[int]:
    """Return the 1-based layers of dates of so many bands.

    They are all, or where these do not fit all but alpha, as which GDAL marks the last of four
    layers of 8 bits.
    """
    return image_bands(source) if source.count % num_bands else list(source.indexes)


def layer_dates(source: DatasetReader, layers: Sequence[int]) -> list[str | None]:
    """Return the ISO date with which the description of each of the 1-based layers begins."""
    texts = (source.descriptions[layer - 1] or "" for layer in layers)
    return [match and match[0] for match in map(_ISO.match, texts)]


def date_of(source: DatasetReader) -> str | float | None:
    """Return the date of a raster of one date.

    It is that of :func:`read_dates` without ``layers.json``, which is for all files of a folder;
    else the acquisition time in its tags, or the date in its name, such as ``20180429`` or
    ``2018-04-29``, where the two do not contradict each other.

    Args:
        source: Open raster.

    Returns:
        The date; None if there is none, or if there are several: the time in a TIFF's tag may be
        that of processing.
    """
    for count in (source.count, len(image_bands(source))):
        with suppress(DataError):
            (date,) = read_dates(source, count, shared=False)
            return date
    found = set()
    for year, _, month, day in _IN_NAME.findall(Path(source.name).name):
        with suppress(ValueError):
            found.add(datetime.date(int(year), int(month), int(day)).isoformat())
    if (moment := acquisition_time(source)) is not None:
        if found <= {moment.date().isoformat()}:
            return moment.replace(tzinfo=None).isoformat()
        return None
    return found.pop() if len(found) == 1 else None


def acquisition_time(source: DatasetReader) -> datetime.datetime | None:
    """Return the acquisition time from the tags of a file, None without any.

    The TIFF tag is the time of image creation, which may differ from the acquisition.
    """
    for text, layout in (
        (source.tags(ns="IMAGERY").get("ACQUISITIONDATETIME"), "%Y-%m-%d %H:%M:%S"),
        (source.tags().get("TIFFTAG_DATETIME"), "%Y:%m:%d %H:%M:%S"),
    ):
        try:
            found = datetime.datetime.strptime((text or "").strip(), layout)
            return found.replace(tzinfo=datetime.UTC)
        except ValueError:  # blank or invalid: some writers fill it with zeros
            continue
    return None


def read_dates(
    source: DatasetReader, num_bands: int, shared: bool = True
) -> list[str | float | None]:
    """Return the dates of a raster whose layers are those of one date after the other.

    They are the list ``dates`` of a JSON file with the raster's name, or of ``layers.json``, in its
    folder; else what the descriptions of the layers begin with, as in ``2018-04-29 B02``.

    Args:
        source: Open raster.
        num_bands: Number of layers of a date.
        shared: Also read ``layers.json``.

    Raises:
        DataError: There are no dates, or as many as do not fit the layers.
    """
    path = Path(source.name)
    dates, found, layers = None, "neither", date_layers(source, num_bands)
    files = [path.with_suffix(".json"), *[path.with_name("layers.json")] * shared]
    for file in files:
        if dates is None and file.is_file():
            try:
                dates = json.loads(file.read_text())["dates"]
                if not isinstance(dates, list):
                    raise TypeError("'dates' is no list")
            except (KeyError, TypeError, ValueError) as error:
                found = f"{file.name}, which has none ({type(error).__name__}: {error})"
                dates = None
    stamps = layer_dates(source, layers)
    if dates is None and None not in stamps:
        dates = stamps
        found = f"{len(set(dates))} dates in descriptions that do not keep together"
        groups = [dates[i : i + num_bands] for i in range(0, len(dates), num_bands)]
        dates = [group[0] for group in groups] if all(len({*one}) == 1 for one in groups) else None
    if dates is None:
        raise DataError(
            f"{source.name}: no dates",
            expected=f"metainfo['dates'], or a list 'dates' in {path.stem}.json or layers.json "
            "beside it, or layers described as '2018-04-29 B02'",
            found=found,
            remedy="add one of them",
        )
    if len(dates) * num_bands != len(layers):
        raise DataError(
            f"{source.name}: its layers do not fit the dates",
            expected=f"{len(dates)} dates of {num_bands} bands, one date after the other",
            found=f"{len(layers)} layers",
            remedy="correct the dates, or metainfo['bands']",
        )
    return dates
