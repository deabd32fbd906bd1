"""From a picture to what the model was trained on, as about.json says it: Pillow and numpy."""

import numpy as np
from model import ABOUT
from PIL import Image

HOW = ABOUT["preprocessing"]


def numbers(picture):
    """A file, or its path -> (1, channels, height, width) float32."""
    with Image.open(picture) as image:
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
        shortest = HOW["shortest"]
        share = shortest / min(wide, high)
        wide, high = max(shortest, int(wide * share)), max(shortest, int(high * share))
        left, top = round((wide - size[0]) / 2), round((high - size[1]) / 2)
        return image.resize((wide, high), how).crop((left, top, left + size[0], top + size[1]))
    share = min(size[0] / wide, size[1] / high)
    wide, high = max(1, round(wide * share)), max(1, round(high * share))
    canvas = Image.new(image.mode, size)
    canvas.paste(image.resize((wide, high), how), ((size[0] - wide) // 2, (size[1] - high) // 2))
    return canvas
