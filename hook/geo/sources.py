"""The local files that a dataset is read from."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from hook.errors import HookError
from hook.geo.raster import GDAL_ERRORS, quiet_open
from hook.geo.side_files import Identity, identity, side_files
from hook.geo.vector import read_vectors

_VIRTUAL = re.compile(rb"<(VRT|OGRVRTData|GDALTileIndexData|GDAL_)|\"gdal_streamed_alg\"")
_INDEX = re.compile(r"^GTI:|\.gti(\.|$)|<GDALTileIndexDataset", re.IGNORECASE)
_SEPARATOR = re.compile(r"""["'?&=!,|;<>{}\s]+|:(?://)?""")
_CONFIGS = (".py", ".json", ".yml", ".yaml")
_CONFIG_NAME = re.compile(r"[^\s\"'\[\](){},:]+\.(?:py|json|ya?ml)\b")
_IMPORT = re.compile(r"^\s+from \.(\.*)([\w.]+) import ", re.MULTILINE)
_FOLDERS = (".gdb", ".zarr", ".n5", ".safe")  # datasets; of others GDAL lists the files
_MANY = 50  # separators of a name up to which all its parts are tried


def local_files(names: Iterable[object]) -> dict[Identity, tuple[Path, str]]:
    """Find all local files that datasets are read from.

    These are the files in a name (``file://``, ``/vsizip/``, ``GTIFF_DIR:``, ``vrt://``, inline
    XML), what GDAL lists for it, the sources of virtual rasters, virtual layers and tile indexes
    and the bases of configs however deep, and the side files of each.

    Args:
        names: Names of rasters, vector files or any other files, or a DataArray that was read from
            one; other objects are skipped.

    Returns:
        Path, and the name it was found for, by identity.
    """
    found: dict[Identity, tuple[Path, str]] = {}
    folders: dict[Path, dict[str, list[Path]]] = {}
    for name in names:
        encoding = getattr(name, "encoding", None)
        if isinstance(encoding, dict):  # of a DataArray
            name = encoding.get("source")
        if not isinstance(name, str | os.PathLike):
            continue
        name = os.fspath(name)
        texts = [(name, Path(), _INDEX.search(name) is not None)]
        seen, opened, is_local = set(), False, False
        while texts:
            text, folder, is_index = texts.pop()
            if (text, folder, is_index) in seen:
                continue
            seen.add((text, folder, is_index))
            texts += [(part, folder, False) for part in _strings(os.fsencode(text))]
            is_local |= len(texts) > 0
            for path in _paths_in(text, folder):
                is_local = True
                if (key := identity(path)) in found or key is None:
                    continue
                found[key] = path, name
                for side in side_files(path, folders):
                    if (part := identity(side)) is not None:
                        found.setdefault(part, (side, name))
                is_index |= _INDEX.search(path.name) is not None
                texts += [(part, path.parent, kind) for part, kind in _references(path, is_index)]
            if is_local and not opened:
                opened = True
                with suppress(*GDAL_ERRORS, ValueError), quiet_open(name) as source:
                    texts += [(file, Path(), False) for file in source.files]
    return found


def _paths_in(text: str, folder: Path) -> list[Path]:
    """Return the existing files and datasets in folders that a dataset name mentions."""
    whole = [place / text for place in (folder, Path()) if _is_dataset(place / text)]
    if whole:
        return whole
    if text.lstrip().startswith(("<", "{")) or not any(map(str.isalpha, text)):
        return []
    cuts = list(_SEPARATOR.finditer(text))
    starts, ends = [0, *(c.end() for c in cuts)], [*(c.start() for c in cuts), len(text)]
    pairs = zip(starts, ends, strict=True)
    if len(cuts) <= _MANY:
        pairs = ((start, end) for start in starts for end in ends if start < end)
    found = []
    for start, end in pairs:
        part = re.sub(r"^(/?vsi\w+/)+", "", text[start:end])
        for path in {place / one for place in (folder, Path()) for one in (part, unquote(part))}:
            # Of /vsizip/a.zip/b.tif the archive.
            for place in (path, *path.parents):
                if _is_dataset(place):
                    found.append(place)
                    break
    return found


def _is_dataset(path: Path) -> bool:
    return os.path.isfile(path) or (path.suffix.lower() in _FOLDERS and os.path.isdir(path))


def _references(path: Path, is_index: bool) -> Iterator[tuple[str, bool]]:
    """Yield the texts in a virtual dataset, and whether it may name a tile index."""
    if is_index:
        with suppress(HookError):
            fields = read_vectors(path).select_dtypes(["object", "string"])
            yield from ((text, False) for text in {*fields.astype(str).to_numpy().ravel()})
    with suppress(OSError), path.open("rb") as file:
        head = file.read(4096)
        if path.suffix in _CONFIGS:
            config = (head + file.read(1 << 16)).decode(errors="replace")
            yield from ((name, False) for name in _base_configs(config))
            file.seek(len(head))
        if _VIRTUAL.search(head):
            of_index = _INDEX.search(head.decode(errors="replace")) is not None
            yield from ((text, of_index) for text in _strings(head + file.read()))


def _base_configs(text: str) -> Iterator[str]:
    """Yield the configs that a config of MMEngine is based on, relative to its folder."""
    if "_base_" in text:
        yield from _CONFIG_NAME.findall(re.sub(r"\{\{\s*fileDirname\s*\}\}/", "", text))
    if "read_base" in text:
        for dots, module in _IMPORT.findall(text):
            yield "../" * len(dots) + module.replace(".", "/") + ".py"


def _strings(content: bytes) -> Iterator[str]:
    """Yield the texts and attributes of XML, or the strings of JSON; nothing for others."""
    start = content.lstrip()[:1]
    try:
        if start == b"<":
            for element in ElementTree.fromstring(content).iter():
                yield from filter(None, ((element.text or "").strip(), *element.attrib.values()))
        elif start == b"{":
            todo = [json.loads(content)]
            while todo:
                value = todo.pop()
                if isinstance(value, str):
                    yield value
                elif isinstance(value, dict | list):
                    todo += value.values() if isinstance(value, dict) else value
    except (ElementTree.ParseError, ValueError):
        return
