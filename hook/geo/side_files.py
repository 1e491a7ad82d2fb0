"""Files that programs read together with a file because of their names."""

import os
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

COMPANIONS = (".aux.xml", ".vat.dbf", ".ovr", ".msk", ".msk.ovr", "-wal", "-shm", "-journal")
"""What GDAL, ArcGIS and SQLite append to the name of a file for files that they read with it."""
# What they put in place of its suffix: world files, projections, bands, parts of shapefiles.
_PARTS = (
    ".wld .prj .tab .hdr .rrd .aux .aux.xml .imd .rpb _rpb.txt _rpc.txt "
    ".shp .shx .dbf .cpg .qix .sbn .sbx .dat .map .id .ind .mif .mid"
).split()

Identity = tuple[int, int]


def identity(path: str | os.PathLike) -> Identity | None:
    """Return device and inode of a file or folder, equal for all its names; None without one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def side_files(path: Path, folders: dict[Path, dict[str, list[Path]]] | None = None) -> list[Path]:
    """Return the existing side files of a file, whatever the case of their names.

    Args:
        path: The file.
        folders: Files of folders by name in lower case, filled for further calls.
    """
    folders = {} if folders is None else folders
    if path.parent not in folders:
        names = folders[path.parent] = {}
        with suppress(OSError), os.scandir(path.parent) as entries:
            for entry in entries:
                names.setdefault(entry.name.lower(), []).append(Path(entry.path))
    name, stem, kind = path.name.lower(), path.stem.lower(), path.suffix.lower()[1:]
    wanted = [name + suffix for suffix in COMPANIONS] + [stem + suffix for suffix in _PARTS]
    wanted += [f"{stem}.{kind}w", f"{stem}.{kind[:1]}{kind[-1:]}w"]  # .tifw, .tfw
    found = (one for name in wanted for one in folders[path.parent].get(name, ()))
    return [one for one in found if one.name != path.name]


def side_file_settings(path: Path) -> list[str]:
    """Return the parts of GDAL's side file of a raster (``.aux.xml``) that change how it is read.

    Statistics and histograms are left out: programs add them to any raster that they show. A file
    that is not XML is returned as a whole.
    """
    try:
        content = path.read_bytes()
        root = ElementTree.fromstring(content)
    except OSError:
        return []
    except ElementTree.ParseError:
        return [content.decode(errors="replace")]
    settings = []
    for part in (root, *root.iter("PAMRasterBand")):
        for element in part:
            if element.tag == "Metadata":
                for entry in list(element):
                    if entry.get("key", "").startswith("STATISTICS_"):
                        element.remove(entry)
                if not len(element):
                    continue
            # GDAL repeats the descriptions of bands with their statistics.
            if element.tag not in ("PAMRasterBand", "Histograms", "Description"):
                text = "".join(ElementTree.tostring(element, encoding="unicode").split())
                settings.append(f"band {part.get('band', '')}: {text}")
    return sorted(settings)


def is_stac_item(path: Path) -> bool:
    """Whether a file is a STAC Item, or a catalogue of them."""
    with suppress(OSError), path.open("rb") as file:
        return path.suffix.lower() == ".json" and b'"stac_version"' in file.read(4096)
    return False


def is_own_side_file(path: Path) -> bool:
    """Whether a side file of GDAL holds class names, colours and statistics only."""
    tags = ("<CategoryNames", "<ColorTable", "<ColorInterp")
    settings = side_file_settings(path)
    return all(text.partition(": ")[2].startswith(tags) for text in settings)
