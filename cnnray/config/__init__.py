"""Every option of cnnray, declared once: the command line, TOML files and environment are read into these.

Frozen and keyword-only; `to_toml` writes what a run was resolved to.
"""

from cnnray.config.atlas import AtlasConfig
from cnnray.config.checks import to_toml
from cnnray.config.face_training import FacesConfig
from cnnray.config.faces import (
    EmbedderConfig,
    FaceSearchConfig,
    FacesEvaluateConfig,
    FacesPredictConfig,
    VerifyConfig,
)
from cnnray.config.galleries import CalibrateConfig, EnrollConfig, QualityPolicy, RecognizeConfig, RecordConfig
from cnnray.config.network import UNSCALED, BackboneConfig, network_name, parse_network
from cnnray.config.painting import PaintConfig
from cnnray.config.prediction import DetectPredictConfig, PredictConfig, SearchConfig, SegmentPredictConfig
from cnnray.config.serving import MODELS, PLACES, ServeConfig
from cnnray.config.sources import (
    BadConfig,
    BoxesConfig,
    FeaturesConfig,
    ManifestConfig,
    PairsConfig,
    SourceConfig,
    SplitConfig,
)
from cnnray.config.style_training import StyleTrainConfig
from cnnray.config.stylize import DescentConfig, StylizeConfig
from cnnray.config.training import ClassifyConfig, DetectConfig, FinetuneConfig, LabelConfig, SegmentConfig, TrainConfig

__all__ = [
    "AtlasConfig",
    "DescentConfig",
    "BackboneConfig",
    "BadConfig",
    "BoxesConfig",
    "CalibrateConfig",
    "ClassifyConfig",
    "DetectConfig",
    "DetectPredictConfig",
    "EmbedderConfig",
    "EnrollConfig",
    "FaceSearchConfig",
    "FacesConfig",
    "FacesEvaluateConfig",
    "FacesPredictConfig",
    "FeaturesConfig",
    "FinetuneConfig",
    "LabelConfig",
    "ManifestConfig",
    "network_name",
    "PaintConfig",
    "PairsConfig",
    "parse_network",
    "PredictConfig",
    "QualityPolicy",
    "RecognizeConfig",
    "RecordConfig",
    "SearchConfig",
    "SegmentConfig",
    "SegmentPredictConfig",
    "MODELS",
    "PLACES",
    "ServeConfig",
    "SourceConfig",
    "SplitConfig",
    "to_toml",
    "VerifyConfig",
    "StyleTrainConfig",
    "StylizeConfig",
    "TrainConfig",
    "UNSCALED",
]
