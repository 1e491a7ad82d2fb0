"""Begin a session, or go on with it, and serve it."""

import importlib.util
import json
import os
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hook.errors import ConfigError
from hook.geo.staging import writing

STATIC = Path(__file__).parent / "static"
BUNDLE = STATIC / "vendor" / "maplibre-gl.mjs"
"""Part of the page that wheels have, and a script fetches for a checkout."""


def explore(
    scene: str | os.PathLike,
    *,
    regions: str | os.PathLike | None = None,
    model: str | Sequence[str] | None = None,
    out: str | os.PathLike | None = None,
    scale: float | None = None,
    regions_per_km2: float | None = None,
    embedding: str | None = None,
    bidx: Sequence[int | str] | None = None,
    nodata: float | str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    port: int = 0,
    opened: Callable[[str], object] | None = webbrowser.open,
) -> None:
    """Serve a page on this machine to label the regions of a scene and get a map.

    Labels and results are kept in a folder, with ``regions.parquet``. Another call goes on where
    the last one stopped, also if it was killed.

    Args:
        scene: A raster that GDAL opens.
        regions: A file of its regions, as written by ``hook regions``, which is copied.
        model: Instead: name of a model, or config and checkpoint, which makes the regions. Neither
            is needed for a folder that has regions.
        out: The folder; default: ``<stem of the scene>_explore`` next to the scene.
        scale: See :class:`hook.regions.RegionRequest`.
        regions_per_km2: See there.
        embedding: See :class:`hook.apis.RegionExtractor`.
        bidx: See :class:`hook.scenes.SceneRequest`.
        nodata: See there.
        device: Device of the model.
        threads: CPU threads of the model; default: PyTorch's.
        port: Port of the page, 0 for any that is free.
        opened: Called with the address of the page, in a thread; None: nothing is.

    Raises:
        ConfigError: A package of the extra or the bundle of the page is missing, there are no
            regions or no such model, an option needs a model, ``out`` is a file, or the port is
            taken.
        DataError: A file cannot be read, or regions or labels are not those of the scene.
        SceneError: The folder cannot be written to.
    """
    check_installation()
    # By default GDAL keeps a twentieth of the memory of the machine, in blocks of the scene.
    os.environ.setdefault("GDAL_CACHEMAX", "64")
    from hook.explore.server import Events, listening, serve
    from hook.explore.session import Session

    scene = os.fspath(scene)
    name = f"{Path(scene).stem}_explore"
    folder = Path(out) if out else (Path(scene).parent if Path(scene).exists() else Path()) / name
    request = {"scale": scale, "regions_per_km2": regions_per_km2, "bidx": bidx, "nodata": nodata}
    of_model = {**request, "embedding": embedding, "nodata": None}
    if model is None and (given := [key for key, value in of_model.items() if value is not None]):
        raise ConfigError(
            f"{', '.join(given)}: for a model that makes regions",
            expected="a model",
            found="none",
            remedy="pass --model NAME too, or omit it",
        )
    _check_model(model)
    with listening(port) as listener:
        events = Events()
        session = Session(scene, folder, nodata, events.publish)
        if regions is None and model is None and session.stored is None:
            raise ConfigError(
                f"{folder}: there are no regions",
                expected="a model, a file of regions, or the folder of an earlier session",
                found="neither",
                remedy="pass --model NAME (a name from 'hook models list') or --regions FILE",
            )
        if folder.exists() and not folder.is_dir():
            raise ConfigError(
                f"{folder}: not a folder",
                expected="a folder for the files of the session",
                found="a file",
                remedy="choose a folder (--out)",
            )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, str] = {}
        if model is not None:
            model = model if isinstance(model, str) else [os.path.abspath(part) for part in model]
            facts["model"] = json.dumps([model, embedding, request])
        elif session.stored is None:
            facts["model"] = "regions of a file"
        path = session.stored if regions is None else session.compare(Path(regions))
        try:
            if path is not None:
                session.begin(path, facts, None if regions is None else Path(regions))
            else:
                options = {"embedding": embedding, "device": device, "threads": threads}
                job: dict[str, Any] = dict(model=model, options=options, request=request)
                session.compute(folder / "regions.parquet", facts, **job)
            serve(session, events, listener, opened)
        finally:
            session.close()


def _check_model(model: str | Sequence[str] | None) -> None:
    """Check that there is a model of this name, or a config and a checkpoint.

    It is loaded in another process, whose errors only the page shows.
    """
    from hook.zoo.listing import find_entry

    if isinstance(model, str) and not model.endswith(".safetensors"):
        find_entry(model)
        return
    for path in [model] if isinstance(model, str) else model or ():
        if not Path(path).is_file():
            raise ConfigError(
                f"{path}: no such file",
                expected="a config and a checkpoint, or a .safetensors file of a model",
                found="nothing",
                remedy="correct the path",
            )


def check_installation() -> None:
    """Check that the packages of the extra are installed, and that the page was built.

    Raises:
        ConfigError: They are missing.
    """
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "the page needs further packages",
            expected=" and ".join(("fastapi", "uvicorn")),
            found=f"no {' and '.join(missing)}",
            remedy="pip install 'hook-rs[explore]'",
        )
    if not BUNDLE.is_file():
        raise ConfigError(
            "the page's map library is not there",
            expected=f"{BUNDLE}, which wheels have",
            found="none",
            remedy="run 'python tools/misc/bundle_explore.py' in the checkout, which needs npm, "
            "before a wheel is built from it",
        )
