"""Images as files in base64, prepared as those that judged the model; what is no image is named."""

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

PREDICT = "/v1/models/images:predict"


def encoded(content):
    return {"b64": base64.b64encode(content).decode()}


def image(colour, size=(8, 4), form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return encoded(file.getvalue())


def bomb():
    """A PNG that declares 50,000 × 50,000 pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    return encoded(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def test_they_are_resized_and_normalised(averager):
    red, white = [1.0, -1.0, -1.0], [1.0, 1.0, 1.0]
    given = [image((255, 0, 0)), image((255, 255, 255), form="JPEG")]
    assert averager.post(PREDICT, {"instances": given}) == (200, {"predictions": [red, white]})
    assert averager.post(PREDICT, {"inputs": given}) == (200, {"outputs": [red, white]})
    assert averager.post(PREDICT, {"inputs": given[0]}) == (200, {"outputs": [red]})


def test_numbers_are_taken_as_they_are(averager):
    assert averager.post(PREDICT, {"instances": [[[[2, 4], [6, 8]]] * 3]}) == (200, {"predictions": [[5, 5, 5]]})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"b64": "%"}, "The image is not in base64."),
        ({"b64": 5}, "Each image has to be"),
        (encoded(b"hello"), "The file is not an image that can be read."),
        (encoded(base64.b64decode(image((9, 9, 9), (200, 200))["b64"])[:60]), "The file is damaged"),
        (bomb(), "The file declares more than the"),
        ({"b64": "", "x": [1]}, "There is no input 'b64'"),
    ],
    ids=["not base64", "a number", "a text", "cut short", "a bomb", "beside an input"],
)
def test_what_is_no_image_is_named(averager, given, sentence):
    status, told = averager.post(PREDICT, {"instances": [given]})
    assert status == 400
    assert told["error"].startswith(sentence), told


def test_a_model_of_numbers_says_so(classifier):
    status, told = classifier.post("/v1/models/rows:predict", {"instances": [image((0, 0, 0))]})
    assert (status, told) == (
        400,
        {"error": "rows takes numbers: no images evaluated it, so how to prepare one is unknown."},
    )
