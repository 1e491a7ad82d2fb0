"""Maps of whole scenes, from any function that maps windows to class probabilities."""

from hook.scenes.blending import RowBlender, RowBlock
from hook.scenes.grid import Window, WindowGrid
from hook.scenes.layers import ClassLayer, SceneGeometry, ScoreLayer
from hook.scenes.mapping import MapReport, map_scene
from hook.scenes.polygons import polygonize
from hook.scenes.reader import SceneReader, WindowData
from hook.scenes.request import MapRequest, SceneRequest
from hook.scenes.statistics import class_statistics

__all__ = [
    "ClassLayer",
    "MapReport",
    "MapRequest",
    "ScoreLayer",
    "RowBlender",
    "RowBlock",
    "SceneGeometry",
    "SceneReader",
    "SceneRequest",
    "Window",
    "WindowData",
    "WindowGrid",
    "class_statistics",
    "map_scene",
    "polygonize",
]
