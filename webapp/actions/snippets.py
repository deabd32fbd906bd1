"""A deployed model's request as each client makes it, ready to copy."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from webapp.store.models import Deployment

HIDDEN = "$PARE_TOKEN"  # where the token is not known any more


def snippets(row: Deployment, base: str, token: str | None) -> list[tuple[str, str]]:
    """(title, text); those that fit the model's task."""
    task = row.about["architecture"]["task"]
    key = json.dumps(token) if token else 'os.environ["PARE_TOKEN"]'
    imports = "" if token else "import os\n\n"
    shell = token or HIDDEN
    if task == "causal-lm":
        found = [_curl(base, "v1/chat/completions", shell, {"model": row.name, "messages": CHAT})]
        found.append(_curl(base, "v1/completions", shell, {"model": row.name, "prompt": "Once", "max_tokens": 16}))
        return [
            ("curl, a chat", found[0]),
            ("curl, a completion", found[1]),
            ("Python, openai", _openai(row, base, key)),
        ]
    sample = sample_of(row)
    if row.about["preprocessing"]:
        found = [
            ("curl, an image", _curl_image(row, base, shell)),
            ("Python, requests", ("" if token else "import os\n") + _requests_image(row, base, key)),
        ]
    else:
        found = [
            (
                "curl, TensorFlow Serving's REST",
                _curl(base, f"v1/models/{row.name}:predict", shell, {"instances": [sample]}),
            ),
            ("Python, requests", imports + _requests(row, base, key, sample)),
        ]
    if task == "embedding":
        body = {"model": row.name, "input": "A text to read."}
        found.insert(0, ("curl, OpenAI's embeddings", _curl(base, "v1/embeddings", shell, body)))
    return [*found, ("Python, tritonclient (Open Inference Protocol)", imports + _triton(row, base, key))]


CHAT = [{"role": "user", "content": "What is a neural network?"}]


def sample_of(row: Deployment) -> Any:
    """One instance as the model takes it: a text, tokens, or zeros in its shape."""
    spec = row.about["architecture"]
    if "vocab" in spec["inputs"]:
        return {"text": "A text to read."} if row.signature is None or row.signature["text"] else [1, 2, 3]
    value: Any = 0.0
    for size in reversed(shape_of(row)):
        value = [value] * size
    return value


def shape_of(row: Deployment) -> list[int]:
    """Of one sample; 64 where any size will do."""
    return [size or 64 for size in row.about["architecture"]["inputs"].get("shape") or []]


def _curl(base: str, path: str, token: str, body: dict[str, Any]) -> str:
    text = json.dumps(body)
    if len(text) > 400:  # an image: the sample is made by a program
        text = text[:200] + " … ]}"
    return f"curl {base}/{path} \\\n  -H \"Authorization: Bearer {token}\" \\\n  --json '{text}'"


def _curl_image(row: Deployment, base: str, token: str) -> str:
    body = '{"instances": [{"b64": "%s"}]}'
    return (
        f"printf '{body}' \"$(base64 < image.jpg | tr -d '\\n')\" |\n"
        f'  curl {base}/v1/models/{row.name}:predict -H "Authorization: Bearer {token}" --json @-'
    )


def _requests_image(row: Deployment, base: str, key: str) -> str:
    return textwrap.dedent(
        f"""\
        import base64
        from pathlib import Path

        import requests

        image = base64.b64encode(Path("image.jpg").read_bytes()).decode()
        answer = requests.post(
            "{base}/v1/models/{row.name}:predict",
            headers={{"Authorization": "Bearer " + {key}}},
            json={{"instances": [{{"b64": image}}]}},
        )
        answer.raise_for_status()
        print(answer.json()["predictions"][0])"""
    )


def _requests(row: Deployment, base: str, key: str, sample: Any) -> str:
    shape = shape_of(row)
    made = repr(sample) if isinstance(sample, dict) or not shape else f"np.zeros({shape}, np.float32).tolist()"
    numpy = "import numpy as np\n" if made.startswith("np.") else ""
    return numpy + textwrap.dedent(
        f"""\
        import requests

        answer = requests.post(
            "{base}/v1/models/{row.name}:predict",
            headers={{"Authorization": "Bearer " + {key}}},
            json={{"instances": [{made}]}},
        )
        answer.raise_for_status()
        print(answer.json()["predictions"][0])"""
    )


def _openai(row: Deployment, base: str, key: str) -> str:
    imports = "import os\n\n" if key.startswith("os.") else ""
    return imports + textwrap.dedent(
        f"""\
        from openai import OpenAI

        client = OpenAI(base_url="{base}/v1", api_key={key})
        stream = client.chat.completions.create(
            model="{row.name}",
            messages={CHAT!r},
            stream=True,
        )
        for part in stream:
            print(part.choices[0].delta.content or "", end="", flush=True)"""
    )


def _triton(row: Deployment, base: str, key: str) -> str:
    scheme, _, place = base.partition("://")
    if "vocab" in row.about["architecture"]["inputs"]:
        given = (
            'given = InferInput("text", [1], "BYTES")\ngiven.set_data_from_numpy(np.array(["A text to read."], object))'
        )
    else:
        name = row.signature["inputs"][0]["name"] if row.signature else "x"
        shape = [1, *shape_of(row)]
        given = (
            f'given = InferInput("{name}", {shape}, "FP32")\ngiven.set_data_from_numpy(np.zeros({shape}, np.float32))'
        )
    answer = row.signature["outputs"][0]["name"] if row.signature else "logits"
    ssl = ", ssl=True" if scheme == "https" else ""
    return (
        "import numpy as np\nfrom tritonclient.http import InferenceServerClient, InferInput\n\n"
        f'client = InferenceServerClient("{place}"{ssl})\n{given}\n'
        f'answer = client.infer("{row.name}", [given], headers={{"Authorization": "Bearer " + {key}}})\n'
        f'print(answer.as_numpy("{answer}"))'
    )
