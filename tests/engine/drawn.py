"""Images for tests: drawn here, in the encodings that people upload."""

import io

import numpy as np
from PIL import Image


def drawn_image(seed: int = 0, size: tuple[int, int] = (20, 12), mode: str = "RGB") -> Image.Image:
    """Smooth colours of (width, height); each seed others."""
    across, down = np.linspace(0, 1, size[0])[None, :], np.linspace(0, 1, size[1])[:, None]
    tints = np.random.default_rng(seed).uniform(40, 200, (3, 3))
    planes = [base * 0.3 + a * across * 0.5 + b * down * 0.5 for base, a, b in tints]
    return Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def tone(value: int, size: tuple[int, int] = (10, 8), seed: int = 0) -> bytes:
    """A PNG near one tone of grey; each seed another image."""
    noise = np.random.default_rng(seed).integers(-5, 6, (size[1], size[0], 3))
    return encoded(Image.fromarray((value + noise).clip(0, 255).astype(np.uint8)))
