"""MMEngine datasets over TorchGeo and folders of GeoTIFFs, with samplers and transforms."""

from hook.datasets.check_hook import DatasetCheckHook
from hook.datasets.geotiff_folder import GeoTIFFFolder
from hook.datasets.geotiff_series import GeoTIFFSeries
from hook.datasets.images_in_memory import ImagesInMemory
from hook.datasets.samplers import ChipQuery, RandomGeoSampler
from hook.datasets.torchgeo_wrappers import TorchGeoClassification, TorchGeoSegmentation
from hook.datasets.transforms import (
    Albumentations,
    ChangeImage,
    PackClsSample,
    PackSegSample,
    ScaleBands,
)

__all__ = [
    "Albumentations",
    "ChangeImage",
    "ChipQuery",
    "DatasetCheckHook",
    "GeoTIFFFolder",
    "GeoTIFFSeries",
    "ImagesInMemory",
    "PackClsSample",
    "PackSegSample",
    "RandomGeoSampler",
    "ScaleBands",
    "TorchGeoClassification",
    "TorchGeoSegmentation",
]
