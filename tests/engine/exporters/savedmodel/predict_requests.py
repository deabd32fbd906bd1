"""TensorFlow Serving's own messages for a SavedModel.

Requests are made from the arrays, sent through bytes, held against the signature as a server does it, and answered by
it into a response; its arrays are what is found.
"""

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2

SIGNATURE = "serving_default"


def main(folder: str, given: str, found: str) -> None:
    loaded = tf.saved_model.load(folder)
    served = loaded.signatures[SIGNATURE]
    content = tf.io.gfile.GFile(f"{folder}/saved_model.pb", "rb").read()
    signature = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def[SIGNATURE]
    assert signature.method_name == "tensorflow/serving/predict"
    sent = predict_pb2.PredictRequest()
    sent.model_spec.name, sent.model_spec.signature_name = "model", SIGNATURE
    for key, array in np.load(given).items():
        number, _, name = key.partition(".")
        if number == "0":
            sent.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    request = predict_pb2.PredictRequest.FromString(sent.SerializeToString())
    assert set(request.inputs) == set(signature.inputs)
    arrays = {}
    for name, info in signature.inputs.items():
        assert request.inputs[name].dtype == info.dtype, name
        arrays[name] = tf.make_ndarray(request.inputs[name])
        assert tf.TensorShape(info.tensor_shape).is_compatible_with(arrays[name].shape), name
    response = predict_pb2.PredictResponse()
    for name, tensor in served(**{name: tf.constant(array) for name, array in arrays.items()}).items():
        assert name in signature.outputs
        response.outputs[name].CopyFrom(tf.make_tensor_proto(tensor))
    answered = predict_pb2.PredictResponse.FromString(response.SerializeToString())
    np.savez(found, **{f"0.{name}": tf.make_ndarray(tensor) for name, tensor in answered.outputs.items()})
