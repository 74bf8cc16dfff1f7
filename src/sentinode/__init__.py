"""sentinode: CNN classifiers for metastatic tissue in lymph-node patches, compared so that it can be believed.

    from pathlib import Path
    from sentinode import fit, load_preset, override, study

    study(Path("data"), load_preset("fair"), Path("study"))
    config = override(load_preset("fair").run_config(), {"model.norm": "after"})
    print(fit(Path("data"), config, Path("run")).scores)

The names below are the public ones; everything else may change between versions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentinode.api.data import check, convert, split
    from sentinode.api.experiments import distill, ensemble, fit
    from sentinode.api.explain import explain_model
    from sentinode.api.export import export
    from sentinode.api.load import load
    from sentinode.api.results import Study
    from sentinode.api.runs import evaluate, predict
    from sentinode.api.slides import judge_slides, score_slides
    from sentinode.api.study import compare, study, tune
    from sentinode.config.presets import load_config, load_preset
    from sentinode.config.run import RunConfig
    from sentinode.config.study import StudyConfig
    from sentinode.errors import SentinodeError
    from sentinode.evaluation.metrics import OwnMetric
    from sentinode.inference.classifier import Classifier
    from sentinode.machine import wait_passively
    from sentinode.phantom.phantom import write_phantom
    from sentinode.report.pages.page import write_report
    from sentinode.runs.run import Run
    from sentinode.session import Session
    from sentinode.settings import override
    from sentinode.slides.heatmap import heat_map
    from sentinode.slides.lesions import find_lesions
    from sentinode.slides.reader import read_slide

__version__ = "0.2.0"

__all__ = [
    "Classifier",
    "OwnMetric",
    "Run",
    "RunConfig",
    "SentinodeError",
    "Session",
    "Study",
    "StudyConfig",
    "check",
    "compare",
    "convert",
    "distill",
    "ensemble",
    "evaluate",
    "explain_model",
    "export",
    "find_lesions",
    "fit",
    "heat_map",
    "judge_slides",
    "load",
    "load_config",
    "load_preset",
    "override",
    "predict",
    "read_slide",
    "score_slides",
    "split",
    "study",
    "tune",
    "wait_passively",
    "write_phantom",
    "write_report",
]

_HOME_OF = {
    **dict.fromkeys(["check", "convert", "split"], "api.data"),
    **dict.fromkeys(["distill", "ensemble", "fit"], "api.experiments"),
    **dict.fromkeys(["compare", "study", "tune"], "api.study"),
    "explain_model": "api.explain",
    "export": "api.export",
    "load": "api.load",
    **dict.fromkeys(["evaluate", "predict"], "api.runs"),
    **dict.fromkeys(["judge_slides", "score_slides"], "api.slides"),
    **dict.fromkeys(["load_config", "load_preset"], "config.presets"),
    "Study": "api.results",
    "RunConfig": "config.run",
    "StudyConfig": "config.study",
    "override": "settings",
    "wait_passively": "machine",
    "SentinodeError": "errors",
    "OwnMetric": "evaluation.metrics",
    "Classifier": "inference.classifier",
    "Run": "runs.run",
    "Session": "session",
    "read_slide": "slides.reader",
    "heat_map": "slides.heatmap",
    "find_lesions": "slides.lesions",
    "write_phantom": "phantom.phantom",
    "write_report": "report.pages.page",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import sentinode` costs nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sentinode' has no attribute {name!r}")
    return getattr(import_module(f"sentinode.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
