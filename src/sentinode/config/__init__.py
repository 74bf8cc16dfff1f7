"""Every setting of a run and of a study, and the presets that come with the package."""

from sentinode.config.files import PRESETS, load_config, load_preset
from sentinode.config.images import AugmentConfig, PreprocessConfig
from sentinode.config.network import DecisionConfig, FitConfig, Metric, ModelConfig, PredictConfig
from sentinode.config.patches import BalanceConfig, DataConfig, Omission, SampleConfig, SplitBy, SplitConfig
from sentinode.config.run import EnsembleConfig, PseudoConfig, RunConfig, Weighting
from sentinode.config.study import CompareConfig, Range, StudyConfig, TuneConfig
from sentinode.config.values import Fraction, Scalar, Seed

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "BalanceConfig",
    "CompareConfig",
    "DataConfig",
    "DecisionConfig",
    "EnsembleConfig",
    "FitConfig",
    "Fraction",
    "Metric",
    "ModelConfig",
    "Omission",
    "PredictConfig",
    "PreprocessConfig",
    "PseudoConfig",
    "Range",
    "RunConfig",
    "SampleConfig",
    "Scalar",
    "Seed",
    "SplitBy",
    "SplitConfig",
    "StudyConfig",
    "TuneConfig",
    "Weighting",
    "load_config",
    "load_preset",
]
