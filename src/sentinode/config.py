"""Every setting of a run and of a study, and the presets that come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from sentinode.errors import ConfigError
from sentinode.settings import Section, is_folder_name, override, parse_toml, suggestion

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Metric = Literal["auc", "accuracy"]
SplitBy = Literal["auto", "slide", "group", "stain", "random", "file"]
Omission = Literal["missing", "unlabelled", "unreadable", "blank", "duplicate"]
Weighting = Literal["fitted", "equal"]
Scalar = bool | int | float | str
Members = dict[str, dict[str, Scalar | list[Scalar]]]


class DataConfig(Section):
    """Which patches take part; nothing is left out unless it is named here."""

    slides: Path | None = Field(None, description="table id,slide (default: slides.csv in the data folder)")
    groups: Path | None = Field(None, description="table id,group (default: groups.csv in the data folder)")
    attributes: Path | None = Field(
        None,
        description="table id,... of further properties of patches, for scores by subgroup "
        "(default: attributes.csv in the data folder)",
    )
    leave_out: tuple[Omission, ...] = Field((), description="kinds of patches to leave out, counted")
    memory_budget_mb: int = Field(2048, ge=1, description="most memory that prepared pixels may take, MB")


class BalanceConfig(Section):
    drop_negative_fraction: Fraction = Field(0.0, description="share of the negative patches dropped")
    seed: Seed = 25


class SampleConfig(Section):
    per_class: int | None = Field(None, ge=1, description="patches drawn of each class (default: all)")
    training_per_class: int | None = Field(
        None, ge=2, description="labels of each class that training may use, drawn after the split (default: all)"
    )
    seed: Seed = 25


class SplitConfig(Section):
    by: SplitBy = Field("auto", description="auto: by slide where slides are known, else by groups and overlaps")
    file: Path | None = Field(None, description="with by = file: a table id,side (training or validation)")
    validation_fraction: float = Field(0.3, gt=0.0, lt=1.0, description="without folds: share of the validation side")
    folds: int | None = Field(None, ge=2, le=20, description="cross-validate: equal parts, each validated on once")
    fold: int | None = Field(None, ge=1, description="which of the folds validates; a comparison runs them all")
    stain_clusters: int | None = Field(None, ge=2, description="with by = stain: how many stand in for slides")
    seed: Seed = 25

    @model_validator(mode="after")
    def _file_goes_with_by_file(self) -> Self:
        if (self.by == "file") != (self.file is not None):
            raise ValueError("split.file is given exactly when split.by is 'file'")
        return self

    @model_validator(mode="after")
    def _a_fold_is_one_of_the_folds(self) -> Self:
        if self.folds is not None and self.by == "file":
            raise ValueError("split.folds needs a split that is drawn; a file gives a single one")
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            raise ValueError(f"split.fold {self.fold} is none of split.folds {self.folds or 'none'}")
        return self

    @property
    def validation_share(self) -> float:
        return self.validation_fraction if self.folds is None else 1 / self.folds


class PreprocessConfig(Section):
    crop_px: int = Field(96, ge=18, le=96, description="side of the centre square that is kept")
    size_px: int = Field(32, ge=17, le=96, description="side of the network's input")
    resize: Literal["nearest", "area"] = "area"
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


class AugmentConfig(Section):
    zoom: float = Field(0.0, ge=0.0, lt=1.0, description="each axis is scaled by 1 - zoom to 1 + zoom")
    flips: bool = Field(False, description="mirror left-right and up-down at random")
    symmetries: bool = Field(True, description="one of the square's 8 symmetries at random")
    stain_jitter: float = Field(
        0.0, ge=0.0, lt=1.0, description="relative spread of stain strength, in optical density"
    )
    cross_centre: bool = Field(False, description="allow zoom, which moves tissue across the labelled centre's border")

    @model_validator(mode="after")
    def _zoom_is_not_label_safe(self) -> Self:
        if self.zoom > 0 and not self.cross_centre:
            raise ValueError(
                "augment.zoom moves tissue across the labelled centre's border; set augment.cross_centre = true "
                "to accept that, or augment.zoom = 0"
            )
        return self


class ModelConfig(Section):
    architecture: Literal["notebook", "residual", "p4m", "timm"] = "notebook"
    norm: Literal["before", "after"] = Field("before", description="notebook: batch norm before or after the ReLU")
    bn_momentum: Fraction = Field(
        0.99, description="Keras's batch-norm momentum (PyTorch's is 1 - m); backbones of timm have their own"
    )
    centre: Literal["weighted", "crop"] = Field(
        "weighted", description="residual: pooled with weights about the centre, or a stream for the centre alone"
    )
    p4m_design: Literal["plain", "dense"] = Field("plain", description="p4m: for a CPU, or after Veeling et al. 2018")
    backbone: str | None = Field(None, description="timm: the network's name in timm")
    pretrained: Literal["auto", "package", "hub", "none"] = Field(
        "auto", description="timm: weights from an installed package where it has them, else from the hub; or none"
    )
    features: Literal["last", "stages"] = Field(
        "last", description="timm: the head sees the last map's mean; or the mean and deviation of every stage's maps"
    )
    resize_px: int | None = Field(None, ge=32, le=1024, description="timm: side that patches are enlarged to")

    @model_validator(mode="after")
    def _a_backbone_goes_with_timm(self) -> Self:
        if (self.architecture == "timm") != (self.backbone is not None):
            raise ValueError("model.backbone is given exactly when model.architecture is 'timm'")
        return self


class FitConfig(Section):
    train: Literal["all", "head"] = Field(
        "all", description="head: the backbone stays as it is, and a logistic head is fitted to its cached features"
    )
    head_penalties: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        min_length=1,
        description="train = head: strengths of the penalty on its weights; each is an epoch in the history",
    )
    frozen_stages: int = Field(0, ge=0, description="timm: so many stages, the stem first, stay fixed")
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0.0)
    layer_decay: float = Field(
        1.0, gt=0.0, le=1.0, description="timm: the learning rate of a stage is this times that of the next one"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine: down to 0 at the last step")
    warmup_epochs: float = Field(0.0, ge=0.0, description="cosine: the learning rate first rises, linearly")
    weight_decay: float = Field(0.0, ge=0.0, description="decoupled (AdamW), of weights, not of biases and norms")
    adam_epsilon: float = Field(1e-7, gt=0.0)
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="0.1: the labels are taken to be 0.05 and 0.95")
    average: Literal["none", "ema", "swa"] = Field(
        "none", description="validate and keep an average of the weights: exponential, or of whole epochs' ends"
    )
    ema_decay: float = Field(0.999, gt=0.0, lt=1.0, description="ema: the share of the average that a step leaves")
    swa_from: Fraction = Field(0.5, description="swa: averaging begins after this share of the epochs")
    precision: Literal["float32", "mixed"] = Field("float32", description="mixed: bfloat16 where the device has it")
    compile: bool = Field(False, description="torch.compile: for GPUs; on a CPU it does not pay")
    steps_per_epoch: int | None = Field(None, ge=1, description="batches an epoch (default: a whole pass)")
    validation_steps: int | None = Field(None, ge=1, description="validation batches an epoch (default: all)")
    keep: Literal["last", "best"] = Field("best", description="which epoch's weights are the run's model")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better score")
    metric: Metric = Field("auc", description="validation score that decides 'best' and patience")
    seed: Seed = 25

    @property
    def epochs_planned(self) -> int:
        """Rows that the history has at most: epochs, or fits of a head."""
        return self.epochs if self.train == "all" else len(self.head_penalties)


class PredictConfig(Section):
    views: Literal[1, 8] = Field(8, description="8: average over the square's 8 symmetries")
    precision: Literal["float32", "mixed"] = Field("float32", description="mixed: bfloat16 where the device has it")
    batch_size: int = Field(512, ge=1)


class DecisionConfig(Section):
    """What the validation side decides after training: where the threshold lies and how probabilities are mended."""

    sensitivity: float = Field(0.95, gt=0.0, le=1.0, description="least sensitivity of the point 'sensitivity'")
    cost_of_miss: float = Field(
        5.0, ge=0.0, allow_inf_nan=False, description="of a tumour missed, in false alarms, for the point 'cost'"
    )
    prevalence: Fraction | None = Field(None, description="share of tumour where it is used (default: validation's)")
    calibration_folds: int = Field(5, ge=2, description="parts of whole slides or groups, each scored by the others")


class EnsembleConfig(Section):
    """Networks whose blend is the run's model: each the run's own settings with a few put over them."""

    members: Members = Field({}, description="settings of each by its name, put over the run's own (default: none)")
    weights: Weighting = Field("fitted", description="of the blend: of least log loss on the validation side, or equal")

    @field_validator("members")
    @classmethod
    def _several_runs_in_folders_of_their_own(cls, members: Members) -> Members:
        for name, settings in members.items():
            if not is_folder_name(name):
                raise ValueError(f"member name {name!r} may hold letters, digits, '.', '_' and '-' only")
            if any(key.split(".")[0] == "ensemble" for key in settings):
                raise ValueError(f"the member {name!r} is to be an ensemble itself; members are runs of one network")
        if len(members) == 1:
            raise ValueError("one member alone is no ensemble")
        return members


class PseudoConfig(Section):
    """Unlabelled patches of the test part that join training under the labels that a finished run gives them."""

    run: Path | None = Field(None, description="the teacher: a finished run, ensemble or study (default: none)")
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="least probability of the label, by the teacher's calibration"
    )
    most: int | None = Field(None, ge=1, description="most patches of each class, the surest first (default: all)")


class RunConfig(Section):
    """All that one run depends on, besides the data."""

    data: DataConfig = DataConfig()
    balance: BalanceConfig = BalanceConfig()
    sample: SampleConfig = SampleConfig()
    split: SplitConfig = SplitConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    predict: PredictConfig = PredictConfig()
    decision: DecisionConfig = DecisionConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    pseudo: PseudoConfig = PseudoConfig()

    @model_serializer(mode="wrap")
    def _without_a_teacher_as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that ask for no pseudo-labels are written as they were before there were any."""
        table: dict[str, Any] = serialize(self)
        if self.pseudo == PseudoConfig():
            table.pop("pseudo", None)
        return table

    @model_validator(mode="after")
    def _members_name_settings_of_a_run(self) -> Self:
        self.members()
        return self

    def members(self) -> dict[str, RunConfig]:
        """The settings of each member's own run; none for a run of one network."""
        shared = {name: getattr(self, name) for name in RunConfig.model_fields if name != "ensemble"}
        return {name: override(RunConfig(**shared), own) for name, own in self.ensemble.members.items()}

    @model_validator(mode="after")
    def _what_is_for_backbones_goes_with_timm(self) -> Self:
        if self.model.architecture == "timm":
            return self
        for name, asked, unused in (
            ("fit.train", self.fit.train, "all"),
            ("fit.frozen_stages", self.fit.frozen_stages, 0),
            ("fit.layer_decay", self.fit.layer_decay, 1.0),
        ):
            if asked != unused:
                raise ValueError(f"{name} = {asked!r} is for backbones: set model.architecture = 'timm'")
        return self

    @model_validator(mode="after")
    def _the_network_takes_the_size(self) -> Self:
        size_px = self.preprocess.size_px
        if self.model.architecture == "residual" and (size_px < 48 or size_px % 16):
            raise ValueError(f"model.architecture 'residual' needs preprocess.size_px 48, 64, 80 or 96, not {size_px}")
        return self


class Range(Section):
    """An interval to search: whole numbers where both ends are whole numbers."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, not {self.low}")
        return self


class CompareConfig(Section):
    """The variants under comparison, each a few settings put over the run's own."""

    variants: dict[str, dict[str, Scalar]] = Field(
        {"before": {"model.norm": "before"}, "after": {"model.norm": "after"}},
        description="settings of each variant by its name, put over the run's own",
    )
    smallest_effect: float = Field(0.005, gt=0.0, description="smallest difference that matters, in the metric")
    replicates: int = Field(2000, ge=100, description="bootstrap replicates behind every interval")
    patches: Literal["all", "resampled"] = Field(
        "all", description="of a drawn slide: all its patches, or as many drawn anew (wider intervals)"
    )

    @field_validator("variants")
    @classmethod
    def _names_are_folder_names(cls, variants: dict[str, dict[str, Scalar]]) -> dict[str, dict[str, Scalar]]:
        for name in variants:
            if not is_folder_name(name):
                raise ValueError(f"variant name {name!r} may hold letters, digits, '.', '_' and '-' only")
        return variants


class TuneConfig(Section):
    base: dict[str, Scalar] = Field(default_factory=dict, description="settings common to all trials")
    search: dict[str, list[Scalar] | Range] = Field(
        {"model.bn_momentum": [0.99, 0.75, 0.50, 0.25]},
        description="any setting of a run: a list of values, or {low, high, log}",
    )
    sampler: Literal["grid", "tpe", "random"] = "grid"
    pruner: Literal["none", "median", "halving"] = "none"
    trials: int | None = Field(None, ge=1, description="trials in all (default: the grid's size, else 20)")
    seed: Seed = 25

    @model_validator(mode="after")
    def _grid_needs_lists(self) -> Self:
        ranges = [key for key, space in self.search.items() if isinstance(space, Range)]
        if self.sampler == "grid" and ranges:
            raise ValueError(f"tune.sampler 'grid' needs a list of values for {ranges[0]}; or use 'tpe'")
        if any(isinstance(space, list) and not space for space in self.search.values()):
            raise ValueError("tune.search: a list of values is empty")
        return self


class StudyConfig(RunConfig):
    """A run's settings, and the questions that are asked with them."""

    seeds: tuple[Seed, ...] = Field((25,), min_length=1, description="one run for each, per variant")
    compare: CompareConfig = CompareConfig()
    tune: TuneConfig = TuneConfig()

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} are not all different")
        return seeds

    @model_validator(mode="after")
    def _overrides_name_settings_of_a_run(self) -> Self:
        run = self.run_config()
        for overrides in [*self.compare.variants.values(), self.tune.base]:
            override(run, overrides)
        for key, space in self.tune.search.items():
            for value in space if isinstance(space, list) else [space.low, space.high]:
                override(run, {key: value})
        return self

    def run_config(self) -> RunConfig:
        return RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields})


PRESETS = ("quick", "seed", "fair", "strong", "strong-gpu")


def load_preset(name: str) -> StudyConfig:
    """Read one of the presets that come with the package, one of `PRESETS`."""
    if name not in PRESETS:
        raise ConfigError(
            f"there is no preset {name!r}",
            remedy=f"Choose one of {', '.join(PRESETS)}{suggestion(name, PRESETS)}",
        )
    text = resources.files("sentinode").joinpath(f"presets/{name}.toml").read_text(encoding="utf-8")
    return parse_toml(text, StudyConfig, where=f"preset {name}")


def load_config(path: Path) -> StudyConfig:
    """Read a TOML file of a run's or a study's settings; what it leaves out has its default."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=path, remedy="Give a TOML file.") from error
    return parse_toml(text, StudyConfig, where=path)
