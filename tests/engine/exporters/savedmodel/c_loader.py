"""Answers by TensorFlow's C++ loader of SavedModels alone: no Python of TensorFlow's, no torch, nothing of Pare.

python c_loader.py FOLDER GIVEN.npz FOUND.npz [FOLDER GIVEN.npz FOUND.npz ...]; GIVEN holds "0.NAME", "1.NAME" for
the inputs of each request, FOUND then "0.NAME" for the outputs.
"""

import ctypes
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

DTYPES = {1: np.float32, 3: np.int32, 4: np.uint8, 6: np.int8, 9: np.int64, 10: np.bool_}  # TF_DataType
SIGNATURE = "serving_default"
P = ctypes.c_void_p


class Output(ctypes.Structure):
    _fields_ = [("operation", P), ("index", ctypes.c_int)]


class Buffer(ctypes.Structure):
    _fields_ = [("data", P), ("length", ctypes.c_size_t), ("free", P)]


def library() -> ctypes.CDLL:
    folder = Path(find_spec("tensorflow").submodule_search_locations[0])
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    lib = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    pointers = "NewStatus NewGraph NewSessionOptions LoadSessionFromSavedModel NewBuffer GraphOperationByName"
    for name in (*pointers.split(), "AllocateTensor", "TensorData"):
        getattr(lib, f"TF_{name}").restype = P
    lib.TF_Message.restype = ctypes.c_char_p
    lib.TF_Dim.restype = ctypes.c_int64
    return lib


def fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a protobuf message."""

    def varint() -> int:
        nonlocal at
        found = shift = 0
        while True:
            byte = message[at]
            at, found, shift = at + 1, found | (byte & 127) << shift, shift + 7
            if byte < 128:
                return found

    at = 0
    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
        else:
            length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
            yield number, message[at : at + length]
            at += length


def tensor_names(meta_graph: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Of the signature's inputs and outputs, by their names in it: MetaGraphDef.signature_def is field 5."""
    signatures = (dict(fields(entry)) for number, entry in fields(meta_graph) if number == 5)
    signature = next(entry[2] for entry in signatures if entry[1].decode() == SIGNATURE)
    named = {1: {}, 2: {}}
    for number, entry in fields(signature):
        if number in named:
            key, info = dict(fields(entry)).values()
            named[number][key.decode()] = dict(fields(info))[1].decode()
    return named[1], named[2]


class Session:
    def __init__(self, lib: ctypes.CDLL, folder: str) -> None:
        self.lib, self.status, self.graph, meta = lib, P(lib.TF_NewStatus()), P(lib.TF_NewGraph()), lib.TF_NewBuffer()
        tags, options = (ctypes.c_char_p * 1)(b"serve"), P(lib.TF_NewSessionOptions())
        self.session = P(
            lib.TF_LoadSessionFromSavedModel(options, None, folder.encode(), tags, 1, self.graph, P(meta), self.status)
        )
        self.check()
        buffer = ctypes.cast(meta, ctypes.POINTER(Buffer)).contents
        self.inputs, self.outputs = tensor_names(ctypes.string_at(buffer.data, buffer.length))

    def check(self) -> None:
        if self.lib.TF_GetCode(self.status):
            sys.exit(self.lib.TF_Message(self.status).decode())

    def at(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        return Output(self.lib.TF_GraphOperationByName(self.graph, operation.encode()), int(index))

    def run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lib, count = self.lib, len(self.outputs)
        tensors = (P * len(self.inputs))(*(self.tensor(given[name]) for name in self.inputs))
        places = (Output * len(self.inputs))(*map(self.at, self.inputs.values()))
        wanted, found = (Output * count)(*map(self.at, self.outputs.values())), (P * count)()
        lib.TF_SessionRun(
            self.session, None, places, tensors, len(places), wanted, found, count, None, 0, None, self.status
        )
        self.check()
        return {name: self.array(P(tensor)) for name, tensor in zip(self.outputs, found, strict=True)}

    def tensor(self, array: np.ndarray) -> int:
        array = np.ascontiguousarray(array)
        kind = next(number for number, dtype in DTYPES.items() if dtype == array.dtype)
        sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
        made = self.lib.TF_AllocateTensor(kind, sizes, array.ndim, ctypes.c_size_t(array.nbytes))
        ctypes.memmove(self.lib.TF_TensorData(P(made)), array.ctypes.data, array.nbytes)
        return made

    def array(self, tensor: P) -> np.ndarray:
        shape = [self.lib.TF_Dim(tensor, axis) for axis in range(self.lib.TF_NumDims(tensor))]
        found = np.empty(shape, DTYPES[self.lib.TF_TensorType(tensor)])
        ctypes.memmove(found.ctypes.data, self.lib.TF_TensorData(tensor), found.nbytes)
        return found


def main(arguments: list[str]) -> None:
    lib = library()
    for folder, given, found in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        session, requests = Session(lib, folder), {}
        for key, array in np.load(given).items():
            number, _, name = key.partition(".")
            requests.setdefault(number, {})[name] = array
        answers = {n: session.run({name: r[name] for name in session.inputs}) for n, r in requests.items()}
        np.savez(found, **{f"{n}.{name}": array for n, answer in answers.items() for name, array in answer.items()})
    strangers = {"tensorflow", "torch", "webapp"} & set(sys.modules)
    assert not strangers, strangers


if __name__ == "__main__":
    main(sys.argv[1:])
