"""Settings of a network, of its training, and of what it predicts and decides."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sentinode.config.values import Fraction, Seed
from sentinode.settings import Section

Metric = Literal["auc", "accuracy"]


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
    features: Literal["last", "stages", "blocks"] = Field(
        "last",
        description="timm: the head sees the last map's mean; or the mean and deviation of every stage's maps, or, "
        "finer, of the stem's and of every row of blocks",
    )
    skipped_maps: int = Field(
        0, ge=0, description="of stages or blocks: so many of the first, which see colour and edges, are not looked at"
    )
    resize_px: int | None = Field(None, ge=32, le=1024, description="timm: side that patches are enlarged to")

    @model_validator(mode="after")
    def _maps_are_skipped_among_several(self) -> Self:
        if self.skipped_maps and self.features == "last":
            raise ValueError("model.skipped_maps is for model.features = 'stages' or 'blocks'")
        return self

    @model_validator(mode="after")
    def _a_backbone_goes_with_timm(self) -> Self:
        if (self.architecture == "timm") != (self.backbone is not None):
            raise ValueError("model.backbone is given exactly when model.architecture is 'timm'")
        return self


class FitConfig(Section):
    train: Literal["all", "head"] = Field(
        "all", description="head: the backbone stays as it is, and a logistic head is fitted to its cached features"
    )
    head_first: bool = Field(
        False, description="timm: before all trains, the head is fitted as with train = head (Kumar et al. 2022)"
    )
    head_penalties: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        min_length=1,
        description="of a fitted head: strengths of the penalty on its weights; with train = head each is an epoch",
    )
    head_copies: int = Field(
        0, ge=0, description="of a fitted head: augmented copies of each patch that it learns from (default: the patch)"
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

    @model_validator(mode="after")
    def _a_head_alone_has_nothing_after_it(self) -> Self:
        if self.head_first and self.train == "head":
            raise ValueError("fit.head_first is for fit.train = 'all'; with 'head' nothing is trained after it")
        return self

    @property
    def epochs_planned(self) -> int:
        """Rows that the history has at most: epochs, or fits of a head."""
        return self.epochs if self.train == "all" else len(self.head_penalties)


class PredictConfig(Section):
    views: Literal[1, 8] = Field(8, description="8: average over the square's 8 symmetries")
    precision: Literal["float32", "mixed"] = Field(
        "float32", description="mixed: bfloat16 where the device has it; also of frozen features"
    )
    batch_size: int = Field(512, ge=1)


class DecisionConfig(Section):
    """What the validation side decides after training: where the threshold lies and how probabilities are mended."""

    sensitivity: float = Field(0.95, gt=0.0, le=1.0, description="least sensitivity of the point 'sensitivity'")
    cost_of_miss: float = Field(
        5.0, ge=0.0, allow_inf_nan=False, description="of a tumour missed, in false alarms, for the point 'cost'"
    )
    prevalence: Fraction | None = Field(None, description="share of tumour where it is used (default: validation's)")
    calibration_folds: int = Field(5, ge=2, description="parts of whole slides or groups, each scored by the others")
