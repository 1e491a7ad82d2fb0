"""Dates of the layers of a raster that holds a time series."""

import datetime
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rasterio.io import DatasetReader

from hook.errors import DataError

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_ISO = re.compile(r"^\d{4}-\d\d-\d\d(T\d\d:\d\d)?")
_IN_NAME = re.compile(r"(?<!\d)(20\d\d|19\d\d)([-_]?)(\d\d)\2(\d\d)(?!\d)")


def to_days(dates: Sequence[str | float | None], where: str) -> list[float]:
    """Return dates as days since 1970-01-01, NaN where there is none.

    Args:
        dates: ISO dates such as ``2018-04-29``, with or without a time of day, days as numbers, or
            None.
        where: Where they are from, for the error.

    Raises:
        DataError: One of them is no date.
    """
    days = []
    for date in dates:
        try:
            if isinstance(date, str):
                moment = datetime.datetime.fromisoformat(date)
                days.append(moment.toordinal() - _EPOCH + (moment.hour + moment.minute / 60) / 24)
            else:
                days.append(float("nan") if date is None else float(date))
        except (TypeError, ValueError):
            raise DataError(
                f"{where}: not a date",
                expected="ISO dates such as 2018-04-29, days since 1970-01-01, or null",
                found=repr(date),
                remedy="correct the dates",
            ) from None
    return days


def to_iso(day: float) -> str:
    """Return the ISO date of days since 1970-01-01, with the time of day if it is not midnight."""
    moment = datetime.datetime.fromordinal(_EPOCH) + datetime.timedelta(minutes=round(day * 1440))
    whole = (moment.hour, moment.minute) == (0, 0)
    return moment.date().isoformat() if whole else moment.isoformat(timespec="minutes")


def without_date(description: str | None) -> str:
    """Return the description of a layer without the date at its beginning."""
    return _ISO.sub("", description or "", count=1).strip()


def date_of(source: DatasetReader) -> str | float | None:
    """Return the date of a raster of one date.

    It is that of :func:`read_dates`; else the acquisition time in its tags, or the date in its
    name, such as ``20180429`` or ``2018-04-29``, where the two do not contradict each other.

    Args:
        source: Open raster.

    Returns:
        The date; None if there is none, or if there are several: the time in a TIFF's tag may be
        that of processing.
    """
    with suppress(DataError):
        (date,) = read_dates(source, source.count)
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


def read_dates(source: DatasetReader, num_bands: int) -> list[str | float | None]:
    """Return the dates of a raster whose layers are those of one date after the other.

    They are the list ``dates`` of a JSON file with the raster's name, or of ``layers.json``, in its
    folder; else what the descriptions of the layers begin with, as in ``2018-04-29 B02``.

    Args:
        source: Open raster.
        num_bands: Number of layers of a date.

    Raises:
        DataError: There are no dates, or as many as do not fit the layers.
    """
    path = Path(source.name)
    dates, found = None, "neither"
    for file in (path.with_suffix(".json"), path.with_name("layers.json")):
        if dates is None and file.is_file():
            try:
                dates = json.loads(file.read_text())["dates"]
                dates = list(dates)
            except (KeyError, TypeError, ValueError) as error:
                found = f"{file.name}, which has none ({type(error).__name__}: {error})"
                dates = None
    if dates is None and all(_ISO.match(text or "") for text in source.descriptions):
        dates = [_ISO.match(text)[0] for text in source.descriptions]
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
    if len(dates) * num_bands != source.count:
        raise DataError(
            f"{source.name}: its layers do not fit the dates",
            expected=f"{len(dates)} dates of {num_bands} bands, one date after the other",
            found=f"{source.count} layers",
            remedy="correct the dates, or metainfo['bands']",
        )
    return dates
