"""Run notebooks from top to bottom and keep their outputs, small enough to be committed.

    python tools/misc/execute_notebooks.py                   # all
    python tools/misc/execute_notebooks.py notebooks/3_*.ipynb

They run in the repository's root, and read and write ``data/demo`` and ``work_dirs/notebooks``.
Pictures become JPEG, or PNG with a palette where that is much smaller, at most 1,100 pixels wide;
what libraries say on the error stream is left out. A notebook that fails, stays above ``--max-kb``
or holds a path of this machine is not changed.
"""

import argparse
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbclient
import nbformat
from nbformat import NotebookNode
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from hook.errors import ConfigError, reports_errors
from hook.geo.staging import atomic_write

QUALITY = 70
COLOURS = 128
WIDEST = 1100
PICTURES = ("image/png", "image/jpeg")
REMARKS = ("Could not import OneDL\n",)  # of libraries, on parts that nobody asked for


def execute(path: Path, timeout: int) -> NotebookNode:
    """Run a notebook.

    Args:
        path: The notebook; it is not changed.
        timeout: Seconds that a cell may take.

    Returns:
        NotebookNode: The notebook with its outputs.
    """
    # The kernel inherits the environment: pictures go inline, progress bars stay away.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(REPO)}}
    nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=resources
    ).execute()
    return notebook


def shrink(notebook: NotebookNode) -> None:
    """Make outputs small, and free of what differs between machines and runs."""
    notebook.metadata = NotebookNode(
        kernelspec=dict(display_name="Python 3", language="python", name="python3"),
        language_info=dict(name="python"),
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type != "code":
            continue
        kept = [o for o in cell.outputs if o.output_type != "stream" or o.name != "stderr"]
        for output in kept:
            if output.output_type == "stream":
                for remark in REMARKS:
                    output.text = output.text.replace(remark, "")
        cell.outputs = _join_streams(kept)
        for output in cell.outputs:
            output.get("metadata", {}).clear()
            data = output.get("data", {})
            given = next((data.pop(kind) for kind in PICTURES if kind in data), None)
            data.pop(PICTURES[1], None)
            if given is not None:
                kind, picture = shrink_picture(base64.b64decode(given))
                data[kind] = base64.b64encode(picture).decode()


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """One output per stretch of printed text, however it came in."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and not output.text.strip():
            continue
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def shrink_picture(picture: bytes) -> tuple[str, bytes]:
    """Write a picture as JPEG, or as PNG with a palette where that takes less than half of it.

    Drawings do; pictures of scenes would lose their colours for little.

    Args:
        picture: An encoded picture.

    Returns:
        tuple: The MIME type and the encoded picture.
    """
    image = Image.open(io.BytesIO(picture))
    if image.mode != "RGB":
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    if image.width > WIDEST:
        size = WIDEST, round(image.height * WIDEST / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    photo, drawing = io.BytesIO(), io.BytesIO()
    image.save(photo, "JPEG", quality=QUALITY, optimize=True)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(drawing, "PNG", optimize=True)
    if 2 * len(drawing.getvalue()) < len(photo.getvalue()):
        return PICTURES[0], drawing.getvalue()
    return PICTURES[1], photo.getvalue()


def check(text: str, path: Path, max_kb: int) -> None:
    """Refuse a notebook that should not be committed.

    Raises:
        ConfigError: It is too large, or holds a path of this machine.
    """
    if len(text) > 1000 * max_kb:
        raise ConfigError(
            f"{path} is too large to be committed",
            expected=f"at most {max_kb} kB (--max-kb)",
            found=f"{len(text) / 1000:.0f} kB",
            remedy="draw smaller pictures, or fewer polygons into maps",
        )
    for place in {str(REPO), str(Path.home()), sys.prefix}:
        if len(place) > 1 and f"{place}/" in text:
            raise ConfigError(
                f"{path} holds a path of this machine",
                found=place,
                remedy="print paths relative to the repository",
            )


@reports_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of notebooks/ if none")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that a cell may take")
    parser.add_argument("--max-kb", type=int, default=500, help="of a notebook with its outputs")
    args = parser.parse_args(argv)
    for path in args.notebooks or sorted((REPO / "notebooks").glob("*.ipynb")):
        start = time.monotonic()
        notebook = execute(path, args.timeout)
        shrink(notebook)
        text = nbformat.writes(notebook) + "\n"
        check(text, path, args.max_kb)
        with atomic_write(path) as part:
            part.write_text(text)
        seconds = time.monotonic() - start
        print(f"{path.name}: {seconds:.0f} s, {len(text) / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
