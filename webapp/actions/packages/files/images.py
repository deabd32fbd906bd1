"""From an image to what the model was trained on, as about.json says it: Pillow and numpy."""

import math

import numpy as np
from model import ABOUT
from PIL import Image

HOW = ABOUT["preprocessing"]


def numbers(image):
    """A file, or its path -> (1, channels, height, width) float32."""
    with Image.open(image) as image:
        fitted = _fitted(image.convert("L" if HOW["channels"] == "grey" else "RGB"))
    pixels = np.asarray(fitted, np.float32).reshape(HOW["height"], HOW["width"], -1).transpose(2, 0, 1)
    if HOW["values"] == "0 to 1":
        pixels = pixels / np.float32(255)
    mean, std = (np.array(HOW[name], np.float32)[:, None, None] for name in ("mean", "std"))
    return np.ascontiguousarray((pixels - mean) / std, np.float32)[None]


def _fitted(image):
    how, size = Image.Resampling[HOW["interpolation"].upper()], (HOW["width"], HOW["height"])
    wide, high = image.size
    if HOW["resize"] == "stretch":
        return image.resize(size, how)
    if HOW["resize"] == "crop":
        return _centre(image, how, size)
    share = min(size[0] / wide, size[1] / high)
    wide, high = max(1, round(wide * share)), max(1, round(high * share))
    canvas = Image.new(image.mode, size)
    canvas.paste(image.resize((wide, high), how), ((size[0] - wide) // 2, (size[1] - high) // 2))
    return canvas


def _centre(image, how, size):
    """As if the whole were resized and then cropped; of a long image only what is near the centre is resized."""
    share = HOW["shortest"] / min(image.size)
    reach = max(2048, math.ceil(3 * share))
    spans = []  # for each axis: from where to where it is resized, its scale, and where the crop begins in that
    for side, wanted in ((image.width, size[0]), (image.height, size[1])):
        scaled = max(HOW["shortest"], int(side * share))
        start = round((scaled - wanted) / 2)
        near, far = max(0, start - reach), min(scaled, start + wanted + reach)
        spans.append((near, far, side / scaled, start - near))
    (x0, x1, of_x, left), (y0, y1, of_y, top) = spans
    part = image.resize((x1 - x0, y1 - y0), how, (x0 * of_x, y0 * of_y, x1 * of_x, y1 * of_y))
    return part.crop((left, top, left + size[0], top + size[1]))
