"""Settings of a run: of one network, or of an ensemble.

Read from top to bottom as a run goes: which patches take part and in which set, what a network sees of them, the
network, its training (`fit.py`), what it predicts and decides. A setting that would do nothing beside the others does
not exist there: what is trained, the architecture and the way of splitting are kinds of section, each with settings of
its own, and what is off altogether is a section left out. What is then still equal in other words, `canonical` makes
equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from sentinode.config.fit import MANY, Descent, FitAll, FitConfig, FitHead, FitStages, Seed
from sentinode.settings import Section, is_folder_name, override

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Scalar = bool | int | float | str
Value = Scalar | list[Any] | dict[str, Any]
"""What a setting can be set to by its full name: a plain value as TOML has them."""


# Which patches take part, and in which set.

Omission = Literal["missing", "unlabelled", "unreadable", "blank", "duplicate"]


class DataConfig(Section):
    """The patches; nothing is left out unless it is named here."""

    slides: Path | None = Field(None, description="table id,slide (default: slides.csv in the data folder)")
    groups: Path | None = Field(None, description="table id,group (default: groups.csv in the data folder)")
    attributes: Path | None = Field(
        None,
        description="table id,... of further properties of patches, for scores by subgroup "
        "(default: attributes.csv in the data folder)",
    )
    tumour: str | None = Field(
        None, description="the class that is tumour, in class folders or tables whose names do not tell"
    )
    spacing_um_per_px: float | None = Field(
        None,
        ge=0.05,
        le=1.5,
        description="what a pixel of the images measures, in um, if a patch is the centre of a larger image",
    )
    leave_out: tuple[Omission, ...] = Field((), description="kinds of patches to leave out, counted")
    stain_clusters: int | None = Field(
        None, ge=2, le=10_000, description="number of stain clusters, which replace slides that are not known"
    )

    @field_validator("leave_out")
    @classmethod
    def _each_once(cls, kinds: tuple[Omission, ...]) -> tuple[Omission, ...]:
        return tuple(sorted(set(kinds)))


class BalanceConfig(Section):
    """Fewer negatives, selected before anything else."""

    drop_negative_fraction: float = Field(gt=0.0, lt=1.0, description="share of the negative patches dropped")
    seed: Seed = Field(25, description="of the random selection")


class SampleConfig(Section):
    """Fewer patches per class."""

    per_class: int | None = Field(None, ge=1, le=MANY, description="patches selected per class, before the split")
    training_per_class: int | None = Field(
        None, ge=2, le=MANY, description="training labels per class, selected after the split"
    )
    seed: Seed = Field(25, description="of the random selection")

    @classmethod
    def misplaced(cls, table: Mapping[str, Any]) -> dict[str, str]:
        """A seed without anything to draw."""
        draws = any(table.get(name) is not None for name in ("per_class", "training_per_class"))
        return {} if draws or "seed" not in table else {"seed": "sample.per_class or sample.training_per_class"}

    @model_validator(mode="after")
    def _draws_something(self) -> Self:
        if self.per_class is None and self.training_per_class is None:
            raise ValueError("sample selects nothing without per_class or training_per_class: leave the section out")
        return self


class DrawnSplit(Section):
    """A random split into training and validation set, or into folds: by slide, group or patch."""

    by: Literal["auto", "slide", "group", "random"] = Field(
        "auto", description="auto: by slide where slides are known, else by groups and overlaps"
    )
    validation_fraction: float | None = Field(
        None, gt=0.0, lt=1.0, description="without folds: share of the validation set (default: 0.3)"
    )
    folds: int | None = Field(None, ge=2, le=20, description="cross-validation: number of folds")
    fold: int | None = Field(None, ge=1, description="which fold is the validation set; a comparison runs them all")
    seed: Seed = Field(25, description="of the random split; with folds, a study puts each of `seeds` here")

    @classmethod
    def misplaced(cls, table: Mapping[str, Any]) -> dict[str, str]:
        """Either a share or folds."""
        if table.get("folds") is None:
            return {"fold": "split.folds"} if table.get("fold") is not None else {}
        share = table.get("validation_fraction")
        return {} if share is None else {"validation_fraction": "a split without split.folds"}

    @model_validator(mode="before")
    @classmethod
    def _without_folds_there_is_a_share(cls, table: Any) -> Any:
        if not isinstance(table, Mapping) or table.get("folds") is not None:
            return table
        return {**table, "validation_fraction": table.get("validation_fraction") or 0.3}

    @model_validator(mode="after")
    def _a_fold_is_one_of_the_folds(self) -> Self:
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise ValueError(f"split.fold {self.fold} is larger than split.folds {self.folds}")
        return self

    @property
    def validation_share(self) -> float:
        """The share of the patches that validate, asked for or by folds."""
        return self.validation_fraction or 1 / (self.folds or 1)


class FileSplit(Section):
    """A split from a table."""

    by: Literal["file"] = "file"
    file: Path = Field(description="a table id,side (training or validation)")
    folds: ClassVar[None] = None
    fold: ClassVar[None] = None


SplitConfig = DrawnSplit | FileSplit


# What a network sees of a patch.


class PreprocessConfig(Section):
    """The fixed part, the same in training and prediction."""

    crop_px: int = Field(96, ge=18, le=96, description="side of the centre square that is kept")
    size_px: int = Field(32, ge=17, le=96, description="side of the network's input")
    resize: Literal["nearest", "area"] = Field("area", description="nearest reads one pixel of each block")
    stain: Literal["none", "macenko"] = Field("none", description="bring each patch's stains to a reference's")

    @model_validator(mode="after")
    def _area_needs_whole_blocks(self) -> Self:
        if self.size_px > self.crop_px:
            raise ValueError(f"preprocess.size_px {self.size_px} is larger than crop_px {self.crop_px}")
        if self.crop_px % 2:
            raise ValueError(f"preprocess.crop_px {self.crop_px} is odd: a centre square needs an even side")
        if self.resize == "area" and self.crop_px % self.size_px:
            raise ValueError(
                f"preprocess.resize 'area' needs crop_px {self.crop_px} to be a multiple of size_px {self.size_px}"
            )
        return self


# The network.


class NotebookModel(Section):
    """The notebook's two small networks."""

    architecture: Literal["notebook"] = "notebook"
    norm: Literal["before", "after"] = Field("before", description="batch norm before or after the ReLU")
    bn_momentum: Fraction = Field(0.99, description="Keras's batch-norm momentum (PyTorch's is 1 - m)")


class P4mModel(Section):
    """A network whose logit is the same for all rotations (by 90 degrees) and flips of a patch."""

    architecture: Literal["p4m"] = "p4m"
    bn_momentum: Fraction = Field(0.99, description="Keras's batch-norm momentum (PyTorch's is 1 - m)")


class LastMap(Section):
    """The head sees the mean of the last map."""

    kind: Literal["last"] = "last"
    skipped_maps: ClassVar[int] = 0
    cut_maps: ClassVar[int] = 0


class SeveralMaps(Section):
    """The head sees the mean and deviation of each stage's maps or, finer, of the stem's and each row of blocks'."""

    kind: Literal["stages", "blocks"]
    skipped_maps: int = Field(
        0, ge=0, le=1000, description="number of first maps left out; they encode mostly colour and edges"
    )
    cut_maps: int = Field(
        0, ge=0, le=1000, description="number of last maps left out, with the part of the network that only they need"
    )


class TimmModel(Section):
    """A backbone of timm."""

    architecture: Literal["timm"] = "timm"
    backbone: str = Field(min_length=1, max_length=200, description="the network's name in timm")
    pretrained: Literal["auto", "package", "hub", "none"] = Field(
        "auto", description="weights from an installed package where it has them, else from the hub; or none"
    )
    features: LastMap | SeveralMaps = Field(LastMap(), discriminator="kind")
    stem_stride: int | None = Field(
        None, ge=1, le=8, description="stride of the first convolution (default: the network's own)"
    )
    resize_px: int | None = Field(None, ge=32, le=1024, description="side that patches are resized to")

    @property
    def is_timms_own(self) -> bool:
        """Whether it is the network that timm makes of the name, with all its maps and steps."""
        return self.stem_stride is None and not self.features.cut_maps


class OwnModel(Section):
    """Your own network; settings contain no code, so the call or the command gives it (`network`)."""

    architecture: Literal["own"] = "own"
    name: str = Field("own", description="its name in tables and figures; no result depends on it")
    source_sha256: str = Field(
        "", pattern="^([0-9a-f]{64})?$", description="digest of its source, recorded by the call"
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        require_names([name], "network")
        return name


ModelConfig = NotebookModel | P4mModel | TimmModel | OwnModel


# What it predicts and decides.


class PredictConfig(Section):
    """How the probability of a patch is computed."""

    views: Literal[1, 8] = Field(8, description="8: average over the square's 8 symmetries")
    precision: Literal["float32", "mixed"] = Field(
        "float32", description="mixed: bfloat16 where the device has it; also of frozen features"
    )


class DecisionConfig(Section):
    """What is chosen on the validation set after training: thresholds and calibration."""

    sensitivity: float = Field(0.95, gt=0.0, le=1.0, description="lowest sensitivity of the point 'sensitivity'")
    cost_of_miss: float = Field(
        5.0, ge=0.0, description="cost of a missed tumour, in false alarms, for the point 'cost'"
    )
    prevalence: Fraction | None = Field(
        None, description="share of tumour where the model is used (default: that of the validation set)"
    )
    calibration_folds: int = Field(
        5, ge=2, le=100, description="folds of whole slides or groups; each is scored by a fit on the others"
    )


# Further networks, further patches, and what no result depends on.

Weighting = Literal["fitted", "equal"]
Members = dict[str, dict[str, Value]]
_MOST_MEMBERS: Final = 100


class EnsembleConfig(Section):
    """Networks whose weighted average is the run's model; each has the run's settings with a few changed."""

    members: Members = Field(description="settings of each by its name; the others are the run's own")
    weights: Weighting = Field("fitted", description="fitted: lowest log loss on the validation set")

    @field_validator("members")
    @classmethod
    def _several_runs_in_folders_of_their_own(cls, members: Members) -> Members:
        require_names(members, "member")
        for name, settings in members.items():
            if any(key.split(".")[0] == "ensemble" for key in settings):
                raise ValueError(f"the member {name!r} is to be an ensemble itself; members are runs of one network")
            require_own(settings, f"the member {name!r}")
        if not 1 < len(members) <= _MOST_MEMBERS:
            count = "one member alone is" if members else "no members are"
            raise ValueError(f"{count if len(members) < 2 else f'{len(members):,} members are'} no ensemble")
        return members


class _Teacher(Section):
    """What both kinds of teacher have."""

    run: Path = Field(description="the teacher: a finished run, ensemble or study")

    @field_validator("run")
    @classmethod
    def _is_there(cls, run: Path) -> Path:
        if run == Path("none"):
            raise ValueError("without a teacher the whole section is left out: set teacher to none")
        return run


class HardLabels(_Teacher):
    """Pseudo-labels: unlabelled patches of the test part join training with the labels that a finished run predicts."""

    labels: Literal["hard"] = "hard"
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="lowest probability of the label, by the teacher's calibration"
    )
    most: int | None = Field(
        None, ge=1, le=MANY, description="most patches of each class, the most confident first (default: all)"
    )


class SoftLabels(_Teacher):
    """Distillation: of all training patches, and those of the test part, a finished run's probabilities are learned."""

    labels: Literal["soft"] = "soft"
    share: float = Field(
        1.0, gt=0.0, le=1.0, description="the teacher's share in the target of a labelled patch; its label has the rest"
    )
    unlabelled: bool = Field(
        True, description="patches of the test part join; without them, scores on that part are of unseen patches"
    )


TeacherConfig = HardLabels | SoftLabels


class RunningConfig(Section):
    """How the work is done; apart from rounding no result depends on it, and a run may resume with other values."""

    memory_budget_mb: int = Field(2048, ge=1, le=2**30, description="most memory that prepared pixels may take, MB")
    prediction_batch_size: int = Field(512, ge=1, le=2**16, description="most patches predicted at once")
    cpus: int | None = Field(
        None, ge=1, le=4096, description="processors that an engine gives each task (default: one, or its share)"
    )
    gpus: float = Field(1.0, gt=0.0, le=64.0, description="GPUs that Ray gives each task, where it computes on them")
    memory_mb: int | None = Field(None, ge=1, le=2**30, description="memory that Ray keeps free for each task, MB")


class RunConfig(Section):
    """Everything that a run depends on, besides the data."""

    data: DataConfig = DataConfig()
    balance: BalanceConfig | None = Field(None, description="default: all patches take part")
    sample: SampleConfig | None = Field(None, description="default: all patches take part")
    split: SplitConfig = Field(DrawnSplit(), discriminator="by")
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelConfig = Field(NotebookModel(), discriminator="architecture")
    fit: FitConfig = Field(FitAll(), discriminator="train")
    predict: PredictConfig = PredictConfig()
    decision: DecisionConfig = DecisionConfig()
    ensemble: EnsembleConfig | None = Field(None, description="default: one network")
    teacher: TeacherConfig | None = Field(
        None, discriminator="labels", description="default: labelled patches and their labels alone"
    )
    running: RunningConfig = RunningConfig()

    @classmethod
    def misplaced(cls, table: Mapping[str, Any]) -> dict[str, str]:
        """Only a backbone has stages, and features to fit a head to; a head is fitted to labels of 0 and 1."""
        trained = _setting(table.get("fit"), "train", "all")
        is_backbone = _setting(table.get("model"), "architecture", "notebook") == "timm"
        if not is_backbone and trained != "all":
            return {"fit.train": "model.architecture = 'timm'"}
        soft = _setting(table.get("teacher"), "labels", "hard") == "soft"
        return {"teacher": "fit.train = 'all' or 'stages', with soft labels"} if soft and trained == "head" else {}

    @field_validator("sample", mode="before")
    @classmethod
    def _nothing_drawn_is_no_sample(cls, sample: Any) -> Any:
        return None if sample == {} else sample

    @model_validator(mode="after")
    def _members_name_settings_of_a_run(self) -> Self:
        self.members()
        return self

    def members(self) -> dict[str, RunConfig]:
        """The settings of each member's own run; none for a run of one network."""
        if self.ensemble is None:
            return {}
        shared = RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields if name != "ensemble"})
        return {
            name: override(shared, own, where=f"ensemble.members.{name}") for name, own in self.ensemble.members.items()
        }

    @property
    def own_sources(self) -> dict[str, str]:
        """The digests of the sources of the networks of one's own that it names, by their names."""
        models = [self.model, *(member.model for member in self.members().values())]
        return {model.name: model.source_sha256 for model in models if isinstance(model, OwnModel)}

    def canonical(self) -> RunConfig:
        """The settings in one form: configs that give the same run, whatever the data, are equal in it."""
        fit, model, preprocess, predict = self.fit, self.model, self.preprocess, self.predict
        if isinstance(fit, FitStages) and (fit.frozen_stages, fit.layer_decay, fit.head_first) == (0, 1.0, None):
            fit = FitAll(**{name: getattr(fit, name) for name in Descent.model_fields})
        if not isinstance(fit, FitHead):
            if fit.patience is not None and fit.patience >= fit.epochs - 1:
                fit = fit.model_copy(update={"patience": None})
            if fit.epochs == 1:
                fit = fit.model_copy(update={"keep": "last"})
            if fit.keep == "last" and fit.patience is None:
                fit = fit.model_copy(update={"metric": "auc"})
        if isinstance(model, TimmModel) and model.resize_px == preprocess.size_px:
            model = model.model_copy(update={"resize_px": None})
        if isinstance(model, OwnModel):
            model = model.model_copy(update={"name": "own"})
        if isinstance(model, P4mModel) and not isinstance(fit, FitHead):  # which says the same of all 8 symmetries
            predict = predict.model_copy(update={"views": 1})
            fit = fit.model_copy(update={"augment": fit.augment.model_copy(update={"symmetries": "none"})})
        if preprocess.crop_px == preprocess.size_px:
            preprocess = preprocess.model_copy(update={"resize": "area"})
        parts = {"fit": fit, "model": model, "preprocess": preprocess, "predict": predict, "running": RunningConfig()}
        return self.model_copy(update=parts)

    def digest(self) -> str:
        """SHA-256 of the canonical settings; an ensemble's of its members', however they were put together."""
        table: dict[str, Any]
        if self.ensemble is None:
            table = self.canonical().model_dump(mode="json")
        else:
            table = {
                "members": {name: own.digest() for name, own in self.members().items()},
                "weights": self.ensemble.weights,
                "seed": self.fit.seed,
                "decision": self.decision.model_dump(mode="json"),
            }
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


SHARED_WITH_TEACHER: Final = ("data", "balance", "sample", "split", "decision")
"""Sections that a student has from its teacher."""

SHARED: Final = ("data", "decision", "running")
"""Sections that members of an ensemble and variants under comparison have in common with the others."""


def require_names(names: Collection[str], what: str) -> None:
    """Raise ValueError unless the names can be those of folders beside each other, whatever the file system."""
    for name in names:
        if not is_folder_name(name):
            raise ValueError(f"{what} name {name[:80]!r} may hold letters, digits, '.', '_' and '-' only, 80 at most")
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"two {what} names differ in capitals only")


def require_own(settings: Mapping[str, Any], whose: str) -> None:
    """Raise ValueError where settings of one among several name what all have in common."""
    for name in settings:
        if name.split(".")[0] in SHARED:
            raise ValueError(f"{whose} sets {name!r}, which is the same for all: set it beside them")


def _setting(section: Any, name: str, otherwise: str) -> Any:
    """A setting of a section that is still a table, or already checked."""
    return section.get(name, otherwise) if isinstance(section, Mapping) else getattr(section, name, otherwise)
