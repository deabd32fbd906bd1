"""A Flask endpoint for the model: POST /predict with {"text": [...]}, {"inputs": {...}} or an image; GET /health."""

import os

from flask import Flask, jsonify, request
from model import ABOUT, OnnxModel, probabilities

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 64_000_000
model = OnnxModel(threads=int(os.environ.get("THREADS", "0")))


@app.get("/health")
def health():
    return {
        "model": ABOUT["title"],
        "inputs": {name: [str(n) for n in shape] for name, (_, shape) in model.inputs.items()},
    }


@app.post("/predict")
def predict():
    given = _given()
    if not isinstance(given, dict):
        raise ValueError(
            'Send "text": [...], or "inputs" by name: {"' + '": [...], "'.join(model.inputs) + '": [...]}.'
        )
    found = model.run(given)
    if not ABOUT["classifies"]:
        return {"outputs": found.tolist()}
    shares = probabilities(found)
    names = ABOUT["classes"] or [str(place) for place in range(shares.shape[-1])]
    answers = [
        {"class": names[row.argmax()], "probabilities": dict(zip(names, row.tolist(), strict=True))} for row in shares
    ]
    return {"predictions": answers}


def _given():
    if "image" in request.files:
        if not ABOUT["preprocessing"]:
            raise ValueError("It is not known how images become this model's numbers; send its inputs by name.")
        from images import numbers

        try:
            return {next(iter(model.inputs)): numbers(request.files["image"].stream)}
        except OSError:
            raise ValueError("The file is no image that Pillow can read.") from None
    asked = request.get_json()
    if not isinstance(asked, dict):
        raise ValueError('Send a JSON object with "text" or "inputs".')
    return model.read(asked["text"]) if "text" in asked else asked.get("inputs")


@app.post("/continue")
def go_on():
    asked = request.get_json()
    if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), str) or not asked["prompt"]:
        raise ValueError('Send {"prompt": "...", "tokens": 32}.')
    if ABOUT["task"] != "causal-lm" or model.tokenizer is None:
        raise ValueError("This model does not continue texts.")
    return {"text": model.continued(asked["prompt"], min(int(asked.get("tokens", 32)), 512))}


@app.errorhandler(ValueError)
def refused(error):
    return jsonify(error=str(error)), 400


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8080")))
