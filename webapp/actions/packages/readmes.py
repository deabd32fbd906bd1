"""The README, the requirements and the request of a package, in which no word is left to guess."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np

from webapp.engine.exporters.onnx.signature import EXAMPLE, TOKENIZER

from .stored import RunFiles


def requirements(taken: RunFiles, names: tuple[str, ...]) -> str:
    """The versions with which the model was proven."""
    beside = [*(["tokenizers"] if taken.has(TOKENIZER) else []), *(["pillow"] if taken.preprocessing else [])]
    return "".join(f"{name}=={version(name)}\n" for name in sorted((*names, *beside)))


def onnxruntime(taken: RunFiles) -> str:
    text = '\n    python run.py "A text of your own"' if taken.has(TOKENIZER) else ""
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, for ONNX Runtime.

    pip install -r requirements.txt
    python -m unittest
    python run.py{text}

The test asks the model for the shipped example ({EXAMPLE}) and compares the answer with the one that was given where
the model was proven. `model.py` is all that runs it; `about.json` has what the graph does not say.
"""


def flask(taken: RunFiles) -> str:
    body = '{"text": ["A text"]}' if taken.has(TOKENIZER) else '{"inputs": {"NAME": [[...]]}}'
    more = "\n    curl http://127.0.0.1:8080/predict -F image=@a.png\n" if taken.preprocessing else ""
    if taken.task == "causal-lm" and taken.has(TOKENIZER):
        more = """
    curl http://127.0.0.1:8080/continue --json '{"prompt": "Once upon a time", "tokens": 32}'
"""
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, behind a Flask endpoint.

    pip install -r requirements.txt
    python -m unittest
    python app.py

    curl http://127.0.0.1:8080/health
    curl http://127.0.0.1:8080/predict --json '{body}'
{more}
`GET /health` names the inputs and their shapes. For more than trying it:
`gunicorn --bind 0.0.0.0:8080 --workers 1 --threads 4 app:app`, or

    docker build -t {taken.slug} . && docker run -p 8080:8080 {taken.slug}

The build runs the tests: they compare the answer to the shipped example with the one that was given where the model was
proven. There is no access control here; put it behind what does that where you are. The image was not built where this
package was made.
"""


def request(taken: RunFiles) -> str:
    """The shipped example as a request of TensorFlow Serving's REST interface."""
    with taken.example() as file, np.load(file, allow_pickle=False) as example:
        names = [name for name in example.files if name.startswith("input.")]
        inputs = {name.removeprefix("input."): example[name].tolist() for name in names}
    return json.dumps({"signature_name": "serving_default", "inputs": inputs}) + "\n"


def tensorflow_serving(taken: RunFiles) -> str:
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, as version 1 of a model for TensorFlow Serving.

    docker compose up
    curl http://127.0.0.1:8501/v1/models/{taken.slug}
    curl -X POST http://127.0.0.1:8501/v1/models/{taken.slug}:predict --data @request.json

The signature is `serving_default`; any batch size is taken. The folder was loaded by TensorFlow and answered as the
compressed model does; TensorFlow Serving itself was not run where this package was made.
"""


def llama_cpp(taken: RunFiles) -> str:
    written = taken.written()
    notes = "".join(f"- {note}\n" for note in written.get("notes", ()))
    return f"""# {taken.run.name}

{taken.title}, compressed by Pare, for llama.cpp.

{(TALKS if written.get("reads_text") else COUNTS).format(model=taken.model.name)}{
        f'''
To know of the file:

{notes}'''
        if notes
        else ""
    }"""


TALKS = """    llama-cli -m {model} -p "Once upon a time" -n 64
    llama-server -m {model} --port 8080

The tokenizer is in the file, with its chat template if it has one. The server answers OpenAI's requests at
http://127.0.0.1:8080/v1/chat/completions.
"""
COUNTS = """{model} has no tokenizer, so it is for programs that give llama.cpp's library token ids and read its logits;
llama-cli and llama-server would have to read text.
"""
