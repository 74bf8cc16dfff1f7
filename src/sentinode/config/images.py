"""Settings of what a network sees of a patch, and how that is varied in training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sentinode.settings import Section


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
