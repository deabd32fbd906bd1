"""From an image to the numbers that a model was trained on: size, range, mean and standard deviation.

One place for every use: evaluation, calibration, training, and the preview. Resizing is Pillow's, with antialiasing,
as in torchvision's transforms of images and in the slow image processors of transformers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from webapp.engine.errors import DatasetUnfit, PreprocessingInvalid
from webapp.engine.facts import ArchitectureSpec, DatasetFacts

LARGEST_SIDE = 2048
FARTHEST = 3  # pixels of the original, that Lanczos looks at on each side
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NATURAL_SIDE = 96  # from here on three channels are taken for photographs, normalised as ImageNet's
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
Numbers = tuple[float, ...]
Pixels = np.ndarray[Any, np.dtype[np.float32]]
FILE = "preprocessor_config.json"
LIMIT_BYTES = 1_000_000
BY_NUMBER = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's number
SMALL = 384  # ConvNeXT-type processors cut the centre out below this size


class Preprocessing(BaseModel):
    """What happens to every image, in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Literal["rgb", "grey"] = Field(
        default="rgb", title="Channels", description="Grey is the luminance of ITU-R 601."
    )
    resize: Literal["crop", "stretch", "pad"] = Field(
        default="crop",
        title="Resize",
        description="Crop cuts the centre out; stretch ignores the proportions; pad adds black at the sides.",
    )
    shortest: int = Field(
        default=256,
        ge=1,
        le=LARGEST_SIDE,
        title="Shortest side",
        description="What the shorter side is resized to before the centre is cut out.",
        json_schema_extra={"unit": "pixels", "show_when": {"resize": "crop"}},
    )
    height: int = Field(
        default=224,
        ge=1,
        le=LARGEST_SIDE,
        title="Height",
        description="What the model is given.",
        json_schema_extra={"unit": "pixels"},
    )
    width: int = Field(
        default=224,
        ge=1,
        le=LARGEST_SIDE,
        title="Width",
        description="What the model is given.",
        json_schema_extra={"unit": "pixels"},
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = Field(
        default="bilinear", title="Interpolation", description="With antialiasing, but for nearest."
    )
    values: Literal["0 to 1", "0 to 255"] = Field(
        default="0 to 1", title="Values", description="0 to 1 divides the bytes by 255, before the mean is subtracted."
    )
    mean: Numbers = Field(
        default=(0.0,), title="Mean", description="Subtracted: one number, or one per channel with commas between."
    )
    std: Numbers = Field(
        default=(1.0,), title="Standard deviation", description="Divides the values: one number, or one per channel."
    )

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """A number or "0.485, 0.456, 0.406" is as good as a list."""
        if isinstance(given, str):
            return [part.strip() for part in given.split(",") if part.strip()]
        return [given] if isinstance(given, int | float) and not isinstance(given, bool) else given

    @field_validator("mean", "std")
    @classmethod
    def _finite(cls, given: Numbers) -> Numbers:
        if len(given) not in (1, 3) or not all(math.isfinite(number) for number in given):
            raise ValueError("it takes one number, or three: one per channel")
        return given

    @model_validator(mode="after")
    def _whole(self) -> Preprocessing:
        if min(abs(number) for number in self.std) < 1e-12:
            raise ValueError("the standard deviation is divided by and cannot be 0")
        if self.channels == "grey" and 3 in (len(self.mean), len(self.std)):
            raise ValueError("grey images have one channel, so mean and standard deviation are one number each")
        if self.resize == "crop" and self.shortest < max(self.height, self.width):
            raise ValueError(
                f"the shortest side, {self.shortest}, is less than the {self.height} × {self.width} to be cut out of it"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1 if self.channels == "grey" else 3, self.height, self.width)

    def fitted(self, image: Image.Image) -> Image.Image:
        """The image in its channels and size; still bytes."""
        image = image.convert("L" if self.channels == "grey" else "RGB")
        how = RESAMPLE[self.interpolation]
        wide, high = image.size
        if self.resize == "stretch":
            return image.resize((self.width, self.height), how)
        if self.resize == "crop":
            return self._centre(image, how)
        share = min(self.width / wide, self.height / high)
        wide, high = max(1, round(wide * share)), max(1, round(high * share))
        canvas = Image.new(image.mode, (self.width, self.height))
        canvas.paste(image.resize((wide, high), how), ((self.width - wide) // 2, (self.height - high) // 2))
        return canvas

    def _centre(self, image: Image.Image, how: Image.Resampling) -> Image.Image:
        """As if the whole were resized and then cut; of a long image only what is near the centre is resized.

        What is within the largest side of the cut is: of most images that is the whole, and the same to the bit.
        """
        share = self.shortest / min(image.size)
        wide, high = (max(self.shortest, int(side * share)) for side in image.size)
        left, top = round((wide - self.width) / 2), round((high - self.height) / 2)
        reach = max(LARGEST_SIDE, math.ceil(FARTHEST * share))
        near = (max(0, left - reach), max(0, top - reach))
        far = (min(wide, left + self.width + reach), min(high, top + self.height + reach))
        of_x, of_y = image.width / wide, image.height / high
        box = (near[0] * of_x, near[1] * of_y, far[0] * of_x, far[1] * of_y)
        part = image.resize((far[0] - near[0], far[1] - near[1]), how, box)
        left, top = left - near[0], top - near[1]
        return part.crop((left, top, left + self.width, top + self.height))

    def numbers(self, fitted: Image.Image) -> Pixels:
        """(C, height, width) float32 of what `fitted` gave."""
        pixels = np.asarray(fitted, np.float32).reshape(self.height, self.width, -1).transpose(2, 0, 1)  # (C, H, W)
        return self.normalised(pixels)

    def normalised(self, pixels: Pixels) -> Pixels:
        """(C, height, width) of 0 to 255, as the model is given them."""
        if self.values == "0 to 1":
            pixels = pixels / np.float32(255)
        mean, std = (np.array(given, np.float32)[:, None, None] for given in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std, np.float32)


def read_preprocessing(given: Mapping[str, Any], defaults: Preprocessing) -> Preprocessing:
    """What was asked, the rest by default. Raises PreprocessingInvalid that names the field."""
    try:
        return Preprocessing.model_validate({**defaults.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        said = first["msg"].removeprefix("Value error, ")
        field = f"preprocessing.{where}" if where else "preprocessing"
        raise PreprocessingInvalid(f"`{field}`: {said[:1].lower()}{said[1:]}.", field) from error


def preprocessing_of(
    spec: ArchitectureSpec | None, given: Iterable[DatasetFacts], asked: Mapping[str, Any] | None
) -> Preprocessing | None:
    """What a run prepares its images with: what was asked, else the architecture's own values.

    None where no dataset holds images. Raises PreprocessingInvalid, or DatasetUnfit for a model that takes none.
    """
    images = any(facts.kind == "images" for facts in given)
    if asked and not images:
        raise PreprocessingInvalid(
            "Preprocessing is for images, and no dataset of the run holds any; remove it.", "preprocessing"
        )
    if spec is None or not images:
        return None
    found = read_preprocessing(asked or {}, default_preprocessing(spec))
    check_preprocessing(spec, found)
    return found


def check_preprocessing(spec: ArchitectureSpec, asked: Preprocessing) -> None:
    """Raises PreprocessingInvalid where the model takes images of another shape."""
    shape: list[int | None] = spec.inputs.get("shape") or []
    if len(shape) != 3:
        raise DatasetUnfit(f"{spec.title} does not take images.", "dataset_id")
    if any(want not in (None, have) for want, have in zip(shape, asked.shape, strict=True)):
        wants = " × ".join("any" if side is None else str(side) for side in shape)
        gives = " × ".join(str(side) for side in asked.shape)
        raise PreprocessingInvalid(
            f"The preprocessing gives {gives} (channels, height, width); {spec.title} takes {wants}.", "preprocessing"
        )


def default_preprocessing(spec: ArchitectureSpec) -> Preprocessing:
    """The architecture's own values: what its preprocessor_config.json says, or what its kind is trained with.

    Photographs as torchvision's weights take them (224 out of 256, ImageNet's mean and standard deviation); small
    or grey images in the model's own size, 0 to 1. Raises DatasetUnfit for a model that takes no images.
    """
    if told := spec.inputs.get("preprocessing"):
        return Preprocessing.model_validate(told)
    shape: list[int | None] = spec.inputs.get("shape") or []
    if len(shape) != 3 or shape[0] not in (None, 1, 3):
        raise DatasetUnfit(f"{spec.title} does not take images of one or three channels.", "dataset_id")
    size = int(spec.config.get("size", 224))
    height, width = (size if side is None else int(side) for side in shape[1:])
    if shape[0] == 1 or min(height, width) < NATURAL_SIDE:
        return Preprocessing(
            channels="grey" if shape[0] == 1 else "rgb",
            resize="stretch",
            height=height,
            width=width,
            shortest=min(LARGEST_SIDE, max(height, width)),
        )
    shortest = min(LARGEST_SIDE, round(max(height, width) * 256 / 224))
    return Preprocessing(height=height, width=width, shortest=shortest, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def told_preprocessing(folder: Path) -> Preprocessing | None:
    """A folder's preprocessor_config.json; None where it is missing, or says what Pare does not know how to follow.

    https://huggingface.co/docs/transformers/main_classes/image_processor
    """
    path = folder / FILE
    if not path.exists() or path.stat().st_size > LIMIT_BYTES:
        return None
    try:
        told = json.loads(path.read_bytes())
        return _read(told) if isinstance(told, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, ZeroDivisionError, ValidationError):
        return None


def _read(told: Mapping[str, Any]) -> Preprocessing | None:
    size = told.get("size")
    if size is None or not told.get("do_resize", True):
        return None
    where: dict[str, Any]
    if told.get("crop_pct") and isinstance(size, dict) and "shortest_edge" in size and size["shortest_edge"] < SMALL:
        side = int(size["shortest_edge"])
        where = {"resize": "crop", "shortest": int(side / float(told["crop_pct"])), **_sides(side)}
    elif told.get("crop_pct"):
        where = {"resize": "stretch", **_sides(size)}
    elif told.get("do_center_crop"):
        inner = _sides(told.get("crop_size") or size)
        if isinstance(size, dict) and "shortest_edge" not in size:
            return None  # stretched first and cut afterwards
        shortest = int(size["shortest_edge"] if isinstance(size, dict) else size)
        where = {"resize": "crop", "shortest": shortest, **inner}
    elif isinstance(size, dict) and "height" not in size:
        return None  # a size that depends on the image
    else:
        where = {"resize": "stretch", **_sides(size)}
    where.setdefault("shortest", min(LARGEST_SIDE, max(where["height"], where["width"])))
    factor = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
    normalised = told.get("do_normalize", True) and told.get("image_mean") is not None
    mean, std = (told["image_mean"], told["image_std"]) if normalised else ([0.0], [1.0])
    if "EfficientNet" in str(told.get("image_processor_type")) and told.get("include_top", True):
        std = [float(s) ** 2 for s in std]  # it divides twice
    offset = 1.0 if told.get("rescale_offset") else 0.0  # x · factor - 1
    if told.get("do_rescale", True):  # written as 0 to 1, whatever the factor was
        mean = [(float(m) + offset) / (255 * factor) for m in mean]
        std = [float(s) / (255 * factor) for s in std]
    resample = told.get("resample", 2)
    return Preprocessing(
        **where,
        interpolation=BY_NUMBER[int(resample)],  # type: ignore[arg-type]
        values="0 to 1" if told.get("do_rescale", True) else "0 to 255",
        mean=tuple(round(float(m), 10) for m in mean),
        std=tuple(round(float(s), 10) for s in std),
    )


def _sides(size: Any) -> dict[str, int]:
    if isinstance(size, Mapping):
        shortest = size.get("shortest_edge")
        return {"height": int(size.get("height", shortest)), "width": int(size.get("width", shortest))}
    return {"height": int(size), "width": int(size)}
