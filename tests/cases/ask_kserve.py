"""Run by an interpreter that has kserve: its client asks a deployed model in both protocols, and prints JSON.

python ask_kserve.py URL NAME ROWS < TOKEN
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def asked(url: str, name: str, rows: list[list[float]], token: str) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {token}"}
    said: dict[str, object] = {}
    v1, v2 = (InferenceRESTClient(config=RESTConfig(protocol=protocol)) for protocol in ("v1", "v2"))
    said["v1"] = await v1.infer(url, {"instances": rows}, model_name=name, headers=headers)
    said["ready"] = await v2.is_model_ready(url, name, headers=headers)
    said["live"] = await v2.is_server_live(url, headers=headers)
    given = InferInput(name="x", shape=[len(rows), len(rows[0])], datatype="FP32")
    for binary in (False, True):
        given.set_data_from_numpy(np.array(rows, np.float32), binary_data=binary)
        request = InferRequest(model_name=name, infer_inputs=[given])
        answer = await v2.infer(url, request, model_name=name, headers=dict(headers))
        said["v2, binary" if binary else "v2"] = answer.outputs[0].as_numpy().tolist()
    return said


if __name__ == "__main__":
    print(json.dumps(asyncio.run(asked(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.stdin.read().strip()))))
