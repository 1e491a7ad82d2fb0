"""The page in a notebook."""

import inspect
import os
from typing import Any

from hook.arguments import check_int
from hook.explore.jobs import answers, start_worker
from hook.explore.opening import check_installation, explore


class ExplorePage:
    """The page of a scene as the output of a notebook's cell.

    Its server is a process of its own, which ends with :meth:`close` or the notebook's kernel.

    Args:
        scene: A raster that GDAL opens.
        height: Height of the page in pixels.
        **options: Of :func:`hook.explore.opening.explore`.

    Attributes:
        address: Of the page, for a browser on this machine.

    Raises:
        ConfigError: A package of the extra or the bundle of the page is missing, or ``height`` is
            not a number of pixels.
        TypeError: There is no such option.
        SceneError: The page cannot be served; the message says why.

    Example:
        >>> ExplorePage("scene.tif", model="hook-fast-tiny_banepa-buildings")
    """

    def __init__(self, scene: str | os.PathLike, *, height: int = 700, **options: Any) -> None:
        check_installation()
        inspect.signature(explore).bind(scene, **options)
        self.height = check_int("height", height, minimum=100)
        paths = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in options.items()
        }
        self._worker = start_worker(job="serve", scene=os.fspath(scene), **paths)
        try:
            self.address = next(
                answer["address"] for answer in answers(self._worker) if "address" in answer
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server; labels are on disk, and another page goes on with them."""
        self._worker.kill()
        self._worker.communicate()

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{self.address}" title="HOOK explore" width="100%" '
            f'height="{self.height}" style="border:0"></iframe>'
        )
