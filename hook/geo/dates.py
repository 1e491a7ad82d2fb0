"""Dates of the layers of a raster that holds a time series."""

import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.io import DatasetReader

from hook.errors import DataError

_EPOCH = datetime.date(1970, 1, 1).toordinal()
_ISO = re.compile(r"\d{4}-\d\d-\d\d")


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
