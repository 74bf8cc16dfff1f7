"""Settings of training: all weights, a backbone by stages, or a head on its features; a run's section `fit`.

Each is a kind of section with settings of its own, and so are the schedule of the learning rate and the average of the
weights. What training varies in the patches that it learns from stands first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from sentinode.settings import Section

Seed = Annotated[int, Field(ge=0, lt=2**63)]
MANY: Final = 10**9
"""More patches than any data set holds."""


class AugmentConfig(Section):
    """Random changes of patches in training; only the zoom moves tissue across the border of the labelled centre."""

    symmetries: Literal["all", "flips", "none"] = Field(
        "all", description="all: a random one of the square's 8 rotations and flips; flips: no rotation by 90 degrees"
    )
    stain_jitter: float = Field(
        0.0, ge=0.0, lt=1.0, description="relative spread of stain strength, in optical density"
    )
    zoom_across_centre: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="each axis is scaled by 1 - zoom to 1 + zoom, which moves tissue across the labelled centre's "
        "border while the label stays",
    )


Metric = Literal["auc", "average_precision", "accuracy", "balanced_accuracy", "log_loss", "brier_score"]
_METRIC: Final = (
    "validation score that selects the best checkpoint, the best trial and the chosen variant: the highest, of "
    "log_loss and brier_score the lowest"
)
_SEED: Final = "of initial weights, order of batches and augmentation; a study puts each of `seeds` here"


class ConstantSchedule(Section):
    """The learning rate stays as it is."""

    kind: Literal["constant"] = "constant"


class CosineSchedule(Section):
    """The learning rate falls to 0 at the last step, as half a cosine."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0.0, description="epochs of linear warm-up")


class NoAverage(Section):
    """The weights themselves are validated and saved."""

    kind: Literal["none"] = "none"


class EmaAverage(Section):
    """An exponential average of the weights is validated and saved."""

    kind: Literal["ema"] = "ema"
    decay: float = Field(0.999, gt=0.0, lt=1.0, description="share of the old average that is kept at each step")


class SwaAverage(Section):
    """The mean of the weights at the end of each epoch is validated and saved."""

    kind: Literal["swa"] = "swa"
    start: float = Field(0.5, ge=0.0, lt=1.0, description="averaging begins after this share of the epochs")


AverageConfig = NoAverage | EmaAverage | SwaAverage
ScheduleConfig = ConstantSchedule | CosineSchedule


class CopiesConfig(AugmentConfig):
    """Augmented copies of each patch, which a head learns from instead of the patch itself."""

    count: int = Field(ge=1, le=100, description="copies of each patch")

    @model_validator(mode="after")
    def _differ_from_the_patch(self) -> Self:
        if self.symmetries == "none" and self.stain_jitter == self.zoom_across_centre == 0:
            raise ValueError("copies that nothing varies are the patch itself: leave the section out")
        return self


class HeadFitConfig(Section):
    """A logistic head on the features of a frozen backbone."""

    penalties: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        min_length=1,
        max_length=100,
        description="strengths of the penalty on its weights, a fit for each; the best on the validation set is kept",
    )
    copies: CopiesConfig | None = Field(None, description="default: it learns from the patches themselves")

    @field_validator("penalties")
    @classmethod
    def _differ(cls, penalties: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(penalties)) != len(penalties):
            raise ValueError("the penalties are not all different")
        return penalties


class Descent(Section):
    """Training by gradient descent (Adam)."""

    epochs: int = Field(
        20,
        ge=1,
        le=10_000,
        description="passes over the training set, or over a part of it where that is asked for",
    )
    batch_size: int = Field(32, ge=2, le=2**16, description="patches a step")
    learning_rate: float = Field(1e-3, gt=0.0, description="the highest, where a schedule changes it")
    schedule: ScheduleConfig = Field(ConstantSchedule(), discriminator="kind")
    weight_decay: float = Field(0.0, ge=0.0, description="decoupled (AdamW), of weights, not of biases and norms")
    adam_epsilon: float = Field(1e-7, gt=0.0, description="added to the root of the second moment, as Keras does")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="0.1: the labels are taken to be 0.05 and 0.95")
    augment: AugmentConfig = AugmentConfig()
    average: AverageConfig = Field(NoAverage(), discriminator="kind")
    precision: Literal["float32", "mixed"] = Field("float32", description="mixed: bfloat16 where the device has it")
    compile: bool = Field(False, description="torch.compile: for GPUs; on a CPU it does not pay")
    steps_per_epoch: int | None = Field(None, ge=1, le=MANY, description="batches an epoch (default: a whole pass)")
    validation_steps: int | None = Field(None, ge=1, le=MANY, description="validation batches an epoch (default: all)")
    epoch_fraction: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="share of the training and validation set that an epoch sees, in whole batches (default: all)",
    )
    keep: Literal["last", "best"] = Field(
        "best", description="which checkpoint is the run's model: of the last epoch or of the best"
    )
    patience: int | None = Field(
        None, ge=1, le=10_000, description="stop after this many epochs without a better score"
    )
    metric: Metric = Field("auc", description=_METRIC)
    seed: Seed = Field(25, description=_SEED)

    @classmethod
    def misplaced(cls, table: Mapping[str, Any]) -> dict[str, str]:
        """An epoch has one length: a fraction, or numbers of batches."""
        if table.get("epoch_fraction") is None:
            return {}
        counted = [name for name in ("steps_per_epoch", "validation_steps") if table.get(name) is not None]
        return dict.fromkeys(counted, "an epoch without fit.epoch_fraction")

    @property
    def epochs_planned(self) -> int:
        """Rows that the history has at most."""
        return self.epochs

    @property
    def augmentation(self) -> AugmentConfig | None:
        """How the patches that it learns from are varied."""
        return self.augment


class FitAll(Descent):
    """All weights are trained."""

    train: Literal["all"] = "all"


class FitStages(Descent):
    """A backbone is fine-tuned by stages: its stem is the first, its head the last."""

    train: Literal["stages"] = "stages"
    frozen_stages: int = Field(0, ge=0, le=1000, description="number of first stages that stay frozen")
    layer_decay: float = Field(
        1.0, gt=0.0, le=1.0, description="the learning rate of a stage is this times that of the next one"
    )
    head_first: HeadFitConfig | None = Field(
        None, description="fit the head before the first epoch (Kumar et al. 2022; default: it starts at zero)"
    )


class FitHead(HeadFitConfig):
    """A linear probe: the backbone is frozen, and a head is fitted to features that are computed once."""

    train: Literal["head"] = "head"
    metric: Metric = Field("auc", description=_METRIC)
    seed: Seed = Field(25, description=_SEED)
    keep: ClassVar[Literal["best"]] = "best"
    patience: ClassVar[None] = None

    @property
    def epochs_planned(self) -> int:
        """Rows that the history has at most: fits of the head."""
        return len(self.penalties)

    @property
    def augmentation(self) -> AugmentConfig | None:
        """How the patches that it learns from are varied; None where they are not."""
        return self.copies


DescentConfig = FitAll | FitStages
FitConfig = FitAll | FitStages | FitHead
