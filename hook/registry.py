"""Child registries of MMEngine's, scope ``hook``.

``parent`` and ``locations`` make ``type='hook.TokenViT'`` resolve in any OpenMMLab config without
``custom_imports``: MMEngine imports ``hook.registry`` from the scope's name, and a registry imports
its locations at its first look-up.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import Registry

MODELS = Registry("model", parent=MMENGINE_MODELS, scope="hook", locations=["hook.models"])
TOKENIZERS = Registry("tokenizer", scope="hook", locations=["hook.models"])
DATASETS = Registry("dataset", parent=MMENGINE_DATASETS, scope="hook", locations=["hook.datasets"])
DATA_SAMPLERS = Registry(
    "data sampler", parent=MMENGINE_DATA_SAMPLERS, scope="hook", locations=["hook.datasets"]
)
TRANSFORMS = Registry(
    "transform", parent=MMENGINE_TRANSFORMS, scope="hook", locations=["hook.datasets"]
)
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="hook", locations=["hook.evaluation"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="hook", locations=["hook.engine"])
VISUALIZERS = Registry(
    "visualizer", parent=MMENGINE_VISUALIZERS, scope="hook", locations=["hook.engine"]
)
