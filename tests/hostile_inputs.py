"""Uploads that were made to do harm, small and made by code: what each is called, and its bytes.

Each has to be refused (or, where it is harmless, read) with a sentence, within seconds, whatever it claims to hold.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable

HUGE = 2**62
Made = dict[str, Callable[[], bytes]]
CHECKPOINTS: Made = {}
DATASETS: Made = {}


def _add(where: Made, name: str, content: Callable[[], bytes]) -> None:
    assert name not in where
    where[name] = content


# GGUF ------------------------------------------------------------------------------------------------------------

STRING, ARRAY, UINT8, UINT32, UINT64 = 8, 9, 0, 4, 10


def gguf_text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf_value(key: bytes, kind: int, raw: bytes) -> bytes:
    return gguf_text(key) + struct.pack("<I", kind) + raw


def gguf_tensor(name: bytes, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(dims)}Q", *dims)
    return gguf_text(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, offset)


def gguf(*values: bytes, tensors: list[bytes] | None = None, counts: tuple[int, int] | None = None) -> bytes:
    """`counts` of (tensors, values) that are claimed; as many as there are where it is not given."""
    tensors = tensors or []
    claimed = counts or (len(tensors), len(values))
    whole = b"GGUF" + struct.pack("<IQQ", 3, *claimed) + b"".join(values) + b"".join(tensors)
    return whole + b"\0" * (-len(whole) % 32 + 64)


def of_llama(**changed: int) -> list[bytes]:
    """The values that a model of one block has, less or more than they should be."""
    numbers = {"block_count": 1, "context_length": 32, "embedding_length": 8, "feed_forward_length": 16}
    numbers |= {"attention.head_count": 2, "vocab_size": 16} | changed
    name = gguf_value(b"general.architecture", STRING, gguf_text(b"llama"))
    return [
        name,
        *(gguf_value(f"llama.{key}".encode(), UINT64, struct.pack("<Q", value)) for key, value in numbers.items()),
        gguf_value(b"llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
    ]


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", UINT8, 1) + b"\1"


for name, content in {
    "array_of_2e9_numbers": lambda: gguf(gguf_value(b"a", ARRAY, struct.pack("<IQ", UINT32, 2 * 10**9))),
    "array_of_2e62_texts": lambda: gguf(gguf_value(b"a", ARRAY, struct.pack("<IQ", STRING, HUGE))),
    "array_of_overflowing_size": lambda: gguf(gguf_value(b"a", ARRAY, struct.pack("<IQ", UINT64, 2**61))),
    "arrays_of_arrays": lambda: gguf(gguf_value(b"a", ARRAY, nested(20_000))),
    "array_of_empty_arrays": lambda: gguf(
        gguf_value(b"a", ARRAY, struct.pack("<IQ", ARRAY, 10**9) + struct.pack("<IQ", UINT8, 0))
    ),
    "array_of_no_type": lambda: gguf(gguf_value(b"a", ARRAY, struct.pack("<IQ", 99, 4))),
    "value_of_no_type": lambda: gguf(gguf_value(b"a", 77, b"\0" * 8)),
    "text_of_2e62": lambda: gguf(gguf_value(b"a", STRING, struct.pack("<Q", HUGE))),
    "key_of_2e62": lambda: gguf(struct.pack("<Q", HUGE)),
    "values_2e62": lambda: gguf(counts=(0, HUGE)),
    "tensors_2e62": lambda: gguf(*of_llama(), counts=(HUGE, 9)),
    "the_same_key_twice": lambda: gguf(*of_llama(), of_llama()[1]),
    "shape_that_overflows": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"token_embd.weight", [2**32, 2**32])]),
    "shape_of_2e40": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"token_embd.weight", [2**40])]),
    "shape_of_zero_and_huge": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"token_embd.weight", [0, 2**63])]),
    "shape_of_70_axes": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"token_embd.weight", [1] * 70)]),
    "axes_2e31": lambda: gguf(*of_llama(), tensors=[gguf_text(b"t") + struct.pack("<I", 2**31)]),
    "tensor_of_no_type": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"token_embd.weight", [8], kind=4711)]),
    "tensor_beyond_the_end": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"token_embd.weight", [8], 0, 2**40)]),
    "alignment_zero": lambda: gguf(*of_llama(), gguf_value(b"general.alignment", UINT32, struct.pack("<I", 0))),
    "alignment_huge": lambda: gguf(*of_llama(), gguf_value(b"general.alignment", UINT32, struct.pack("<I", 2**31))),
    "name_that_is_no_text": lambda: gguf(*of_llama(), tensors=[gguf_tensor(b"\xff\xfe\0", [8])]),
    "architecture_that_is_a_number": lambda: gguf(gguf_value(b"general.architecture", UINT32, struct.pack("<I", 3))),
    "blocks_2e40": lambda: gguf(*of_llama(block_count=2**40)),
    "vocabulary_2e40": lambda: gguf(*of_llama(vocab_size=2**40)),
    "heads_zero": lambda: gguf(*of_llama(**{"attention.head_count": 0})),
    "width_2e50": lambda: gguf(*of_llama(embedding_length=2**50)),
    "nothing": lambda: gguf(),
    "version_big_endian": lambda: b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + b"\0" * 64,
}.items():
    _add(CHECKPOINTS, f"{name}.gguf", content)


# safetensors -----------------------------------------------------------------------------------------------------


def safetensors(header: object, data: bytes = b"") -> bytes:
    """`header` as JSON, or as the bytes that it is."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def one(shape: list[int], size: int, dtype: str = "F32", name: str = "w", start: int = 0) -> dict[str, object]:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}}


FOUR = b"\0\0\0\0"
for name, content in {
    "10000_axes": lambda: safetensors(one([1] * 10_000, 4), FOUR),
    "65_axes": lambda: safetensors(one([1] * 65, 4), FOUR),
    "zero_times_huge": lambda: safetensors(one([0, 10**30], 0) | one([1], 4, name="v"), FOUR),
    "zero_times_2e62_times_4": lambda: safetensors(one([0, HUGE, 4], 0) | one([1], 4, name="v"), FOUR),
    "axis_of_30000_digits": lambda: safetensors(b'{"w":{"dtype":"F32","shape":[' + b"9" * 30_000 + b"]}}"),
    "overflowing_product": lambda: safetensors(one([2**32, 2**32], 0)),
    "a_name_that_is_no_text": lambda: safetensors(
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR
    ),
    "a_name_with_a_zero_byte": lambda: safetensors(one([1], 4, name="a\0b"), FOUR),
    "a_name_of_a_million": lambda: safetensors(one([1], 4, name="module." * 150_000), FOUR),
    "metadata_that_is_no_text": lambda: safetensors(
        b'{"__metadata__":{"a":"\\udfff"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', FOUR
    ),
    "overlapping": lambda: safetensors(one([1], 4) | one([1], 4, name="v"), FOUR),
    "overlapping_in_part": lambda: safetensors(one([2], 8) | one([1], 4, name="v", start=4), FOUR + FOUR),
    "a_hole": lambda: safetensors(one([1], 4, start=4), FOUR + FOUR),
    "offsets_backwards": lambda: safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, FOUR),
    "offsets_2e62": lambda: safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [HUGE, HUGE + 4]}}, FOUR),
    "negative_axes": lambda: safetensors(one([-1, -1], 4), FOUR),
    "a_true_axis": lambda: safetensors({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, FOUR),
    "a_fractional_axis": lambda: safetensors({"w": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, FOUR),
    "a_dtype_that_is_a_list": lambda: safetensors(
        {"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, FOUR
    ),
    "a_dtype_of_torch": lambda: safetensors(one([1], 4, dtype="storage"), FOUR),
    "the_same_name_300000_times": lambda: safetensors(
        b"{" + b",".join(b'"%d":0' % (n % 299_999) for n in range(300_000)) + b"}"
    ),
    "lists_100000_deep": lambda: safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "architecture_of_another_world": lambda: safetensors(
        {"__metadata__": {"pare_architecture": '{"family":"sequential","layers":[[1e999]]}'}} | one([1], 4), FOUR
    ),
    "a_header_that_is_a_list": lambda: safetensors(b"[" + b" " * 20 + b"]"),
    "tensors_without_data": lambda: safetensors({str(n): one([0], 0)["w"] for n in range(1000)}),
    "a_header_of_2e63": lambda: struct.pack("<Q", 2**63) + b"{}" * 50,
}.items():
    _add(CHECKPOINTS, f"{name}.safetensors", content)


# zip archives ----------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return target.getvalue()


def folder(config: object, **files: bytes) -> bytes:
    """A Hugging Face folder of one tensor, whose config.json is `config` (bytes, or what is dumped)."""
    raw = config if isinstance(config, bytes) else json.dumps(config).encode()
    weights = safetensors(one([1], 4, name="model.norm.weight"), FOUR)
    return zipped({"config.json": raw, "model.safetensors": weights} | files)


def config_of(model_type: str, **changed: object) -> dict[str, object]:
    return {"model_type": model_type, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2} | changed


def linked(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


def encrypted() -> bytes:
    raw = bytearray(folder(config_of("bert")))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = raw.find(mark)
        while place >= 0:
            raw[place + at] |= 1
            place = raw.find(mark, place + 4)
    return bytes(raw)


def declared(size: int) -> bytes:
    """An archive whose directory says that its first file takes `size` bytes."""
    raw = bytearray(folder(config_of("bert")))
    struct.pack_into("<I", raw, raw.find(b"PK\1\2") + 24, size)
    return bytes(raw)


NUMBERS = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_labels",
    "max_position_embeddings",
    "type_vocab_size",
    "head_dim",
    "num_key_value_heads",
    "num_experts",
]
for name, content in {
    **{
        f"bert_{key}_{size:.0e}": lambda key=key, size=size: folder(config_of("bert", **{key: size}))
        for key in NUMBERS
        for size in (10**9, 10**30)
    },
    **{
        f"{kind}_{key}": lambda kind=kind, key=key: folder(config_of(kind, **{key: 10**9}))
        for kind, key in (
            ("qwen2", "num_hidden_layers"),
            ("qwen2", "max_window_layers"),
            ("gemma3_text", "num_hidden_layers"),
            ("llama", "num_hidden_layers"),
            ("gpt2", "n_layer"),
            ("gpt2", "n_positions"),
            ("gpt2", "n_embd"),
            ("mamba", "num_hidden_layers"),
            ("mamba", "state_size"),
            ("mixtral", "num_local_experts"),
            ("t5", "num_layers"),
            ("t5", "num_decoder_layers"),
            ("bart", "encoder_layers"),
            ("vit", "image_size"),
            ("vit", "num_channels"),
            ("whisper", "max_source_positions"),
            ("distilbert", "n_layers"),
            ("xlnet", "n_layer"),
            ("deberta-v2", "max_relative_positions"),
            ("deberta-v2", "position_buckets"),
            ("wav2vec2", "num_feat_extract_layers"),
            ("wav2vec2", "num_conv_pos_embeddings"),
            ("qwen3_moe", "num_experts"),
            ("swin", "window_size"),
            ("opt", "max_position_embeddings"),
            ("bloom", "n_layer"),
            ("falcon", "num_hidden_layers"),
            ("longformer", "attention_window"),
            ("roberta", "max_position_embeddings"),
            ("gptj", "n_positions"),
            ("modernbert", "num_hidden_layers"),
            ("jamba", "num_hidden_layers"),
            ("zamba2", "num_hidden_layers"),
            ("nemotron_h", "num_hidden_layers"),
            ("granitemoehybrid", "num_hidden_layers"),
            ("deepseek_v3", "n_routed_experts"),
        )
    },
    "swin_depths": lambda: folder({"model_type": "swin", "depths": [10**9, 2]}),
    "resnet_depths": lambda: folder({"model_type": "resnet", "depths": [10**9], "hidden_sizes": [64]}),
    "convnext_depths_of_a_million": lambda: folder({"model_type": "convnext", "depths": [1] * 10**6}),
    "wav2vec2_conv_dim": lambda: folder({"model_type": "wav2vec2", "conv_dim": [512] * 10**5}),
    "nested_text_config": lambda: folder(
        {"model_type": "gemma3", "text_config": {"num_hidden_layers": 10**9}, "vision_config": {}}
    ),
    "id2label_of_300000": lambda: folder(config_of("bert", id2label={str(n): "x" for n in range(300_000)})),
    "id2label_that_is_a_list": lambda: folder(config_of("bert", id2label=[1, 2])),
    "labels_negative": lambda: folder(config_of("bert", num_labels=-5)),
    "a_number_of_a_million_digits": lambda: folder(b'{"model_type":"bert","num_labels":' + b"9" * 10**6 + b"}"),
    "numbers_that_are_none": lambda: folder(b'{"model_type":"bert","hidden_size":NaN,"vocab_size":Infinity}'),
    "a_type_that_is_no_text": lambda: folder(b'{"model_type":"\\ud800"}'),
    "a_text_that_is_none": lambda: folder(b'{"model_type":"bert","note":"\\ud800"}'),
    "an_architecture_that_is_no_text": lambda: folder(config_of("bert", architectures=["\ud800"])),
    "architectures_that_are_numbers": lambda: folder(config_of("bert", architectures=[7])),
    "an_architecture_that_is_another_class": lambda: folder(config_of("bert", architectures=["PreTrainedModel"])),
    "lists_100000_deep": lambda: folder(b'{"model_type":"bert","a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "config_of_empty_lists": lambda: folder(b'{"a":[' + b"[]," * 5 * 10**6 + b"[]]}"),
    "an_absolute_path": lambda: zipped({"/etc/config.json": b"{}"}),
    "a_path_that_climbs": lambda: zipped({"a/../../config.json": b"{}"}),
    "a_path_of_windows": lambda: zipped({"C:\\config.json": b"{}"}),
    "a_link": lambda: zipped({"config.json": b"/etc/passwd"}, linked),
    "an_encrypted_one": encrypted,
    "one_that_claims_4_GB": lambda: declared(2**32 - 2),
    "zeros": lambda: zipped({"config.json": b"{}", "model.safetensors": b"\0" * 30 * 10**6}),
    "an_archive_in_an_archive": lambda: zipped({"inner.zip": zipped({"inner.zip": zipped({"a": b"\0" * 10**6})})}),
    "names_of_60000": lambda: zipped({"a" * 60_000: b"", "config.json": b"{}"}),
    "30000_files": lambda: zipped({f"{n}": b"" for n in range(30_000)}),
    "an_index_of_nowhere": lambda: zipped(
        {
            "config.json": b'{"model_type":"bert"}',
            "model.safetensors.index.json": b'{"weight_map":{"a":"../../../etc/passwd"}}',
        }
    ),
    "an_index_of_no_text": lambda: zipped(
        {"config.json": b'{"model_type":"bert"}', "model.safetensors.index.json": b'{"weight_map":{"a":"\\ud800"}}'}
    ),
    "an_index_of_100000_shards": lambda: zipped(
        {
            "config.json": b'{"model_type":"bert"}',
            "model.safetensors.index.json": json.dumps({"weight_map": {str(n): str(n) for n in range(10**5)}}).encode(),
        }
    ),
    "a_shard_of_99999": lambda: zipped(
        {"config.json": b'{"model_type":"bert"}', "model-00001-of-99999.safetensors": b""}
    ),
    "a_tokenizer_that_is_none": lambda: folder(config_of("bert"), **{"tokenizer.json": b"[" * 10**5}),
    "a_tokenizer_class_of_nowhere": lambda: folder(
        config_of("bert"), **{"tokenizer_config.json": b'{"tokenizer_class":"os.system"}', "vocab.txt": b"\xff\xfe"}
    ),
    "a_directory_alone": lambda: b"PK\5\6" + b"\0" * 18,
    "a_directory_of_4_GB": lambda: b"PK\3\4" + b"\0" * 26 + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 9, 9, 2**31, 0, 0),
}.items():
    _add(CHECKPOINTS, f"{name}.zip", content)


# pickles ---------------------------------------------------------------------------------------------------------


def state_dict(pickled: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """An archive of torch.save around a pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
        for name, content in (storages or {}).items():
            archive.writestr(f"a/data/{name}", content)
    return target.getvalue()


def legacy(pickled: bytes) -> bytes:
    """The form before torch 1.6 around a pickle."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


def called(name: bytes, argument: bytes) -> bytes:
    """{"w": name(argument)}, as a pickle of protocol 2."""
    return b"\x80\x02}X\1\0\0\0wc" + name.replace(b" ", b"\n") + b"\n" + argument + b"\x85Rs."


def integer(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tensor_pickled(size: int, stride: int, stored: int) -> bytes:
    """{"w": a tensor of `size` numbers `stride` apart, of a storage that claims `stored`}"""
    numbers = integer(size) + b"\x85" + integer(stride) + b"\x85"
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + integer(stored) + b"tQ"
    rest = b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(0) + numbers + rest + b"tRs."


def hexed(times: int) -> bytes:
    """A text that is turned into twice its size, again and again."""
    text = b"X" + struct.pack("<I", 4) + b"aaaa"
    for _ in range(times):
        text = b"c_codecs\nencode\n" + text + b"X\3\0\0\0hex\x86R"
    return b"\x80\x02}X\1\0\0\0w" + text + b"s."


def shared(depth: int, width: int) -> bytes:
    """A dict of `width` names for one dict of `width` names for one dict …: small, and endless for who walks it."""
    inner: dict[str, object] = {}
    for _ in range(depth):
        inner = {f"k{n}": inner for n in range(width)}
    return pickle.dumps(inner, 2)


for name, content in {
    "bytearray_of_2e40": lambda: state_dict(called(b"__builtin__ bytearray", integer(2**40))),
    "bytearray_of_1e9": lambda: state_dict(called(b"__builtin__ bytearray", integer(10**9))),
    "bytearray_of_1e9_of_python_3": lambda: state_dict(called(b"builtins bytearray", integer(10**9))),
    "float_tensor_of_2e40": lambda: state_dict(called(b"torch FloatTensor", integer(2**40))),
    "float_storage_of_2e40": lambda: state_dict(called(b"torch FloatStorage", integer(2**40))),
    "tensor_of_2e40": lambda: state_dict(tensor_pickled(2**40, 1, 2**40), {"0": b"\0" * 8}),
    "tensor_of_2e40_that_repeats": lambda: state_dict(tensor_pickled(2**40, 0, 2), {"0": b"\0" * 8}),
    "tensor_of_2e62": lambda: state_dict(tensor_pickled(2**62, 4, 2), {"0": b"\0" * 8}),
    "negative_strides": lambda: state_dict(tensor_pickled(2, -4, 2), {"0": b"\0" * 8}),
    "hex_40_times": lambda: state_dict(hexed(40)),
    "shared_dicts": lambda: state_dict(shared(6, 300)),
    "nested_200000": lambda: state_dict(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
    "a_name_of_a_million": lambda: state_dict(
        b"\x80\x02}X" + struct.pack("<I", 7 * 150_000) + b"module." * 150_000 + tensor_pickled(2, 1, 2)[9:],
        {"0": b"\0" * 8},
    ),
    "a_name_that_is_no_text": lambda: state_dict(
        b"\x80\x02}X\3\0\0\0\xed\xa0\x80" + tensor_pickled(2, 1, 2)[9:], {"0": b"\0" * 8}
    ),
    "a_memo_of_4e9": lambda: state_dict(b"\x80\x02}r\xff\xff\xff\xff."),
    "an_empty_pickle": lambda: state_dict(b""),
    "a_call_of_os_system": lambda: state_dict(called(b"os system", b"X\4\0\0\0true")),
    "a_call_on_the_stack": lambda: state_dict(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),
    "old_bytearray_of_2e40": lambda: legacy(called(b"__builtin__ bytearray", integer(2**40))),
    "old_call_of_os_system": lambda: legacy(called(b"os system", b"X\4\0\0\0true")),
    "old_tensor_of_2e40": lambda: legacy(tensor_pickled(2**40, 1, 2**40)),
    "old_and_nothing": lambda: legacy(b""),
}.items():
    _add(CHECKPOINTS, f"{name}.pt", content)


# ONNX ------------------------------------------------------------------------------------------------------------


def onnx_model(nodes: list[tuple[str, list[str], list[str], dict[str, object]]], constants: dict[str, object]) -> bytes:
    """A graph from x (1, 4) to y; `constants` as arrays."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **more) for kind, given, made, more in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        + [numpy_helper.from_array(np.ones((4, 4), dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def after_linear(kind: str, constants: dict[str, object], given: list[str] | None = None, **more: object) -> bytes:
    """x @ w, and then one step more."""
    given = given or ["h", *constants]
    return onnx_model([("MatMul", ["x", "w"], ["h"], {}), (kind, given, ["y"], more)], constants)


def lying_initializer(change: Callable[..., None]) -> bytes:
    from onnx import ModelProto

    model = ModelProto()
    model.ParseFromString(after_linear("Relu", {}))
    change(model.graph.initializer[0], model)
    return model.SerializeToString()


def _external(location: str) -> Callable[..., None]:
    def change(tensor, model) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (("location", location), ("offset", "0"), ("length", "64")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def _int64(*values: int) -> object:
    import numpy as np

    return np.array(values, dtype=np.int64)


def chain_of(count: int) -> bytes:
    nodes = [("Add", [f"h{n}", f"h{n}"], [f"h{n + 1}"], {}) for n in range(count)]
    return onnx_model([("MatMul", ["x", "w"], ["h0"], {}), *nodes, ("Relu", [f"h{count}"], ["y"], {})], {})


for name, content in {
    "external_absolute": lambda: lying_initializer(_external("/etc/passwd")),
    "external_climbing": lambda: lying_initializer(_external("../../etc/passwd")),
    "external_missing": lambda: lying_initializer(_external("weights.bin")),
    "dims_2e40": lambda: lying_initializer(lambda tensor, model: tensor.dims.append(2**40)),
    "dims_negative": lambda: lying_initializer(lambda tensor, model: tensor.dims.append(-1)),
    "dims_zero_and_huge": lambda: lying_initializer(lambda tensor, model: tensor.dims.extend([0, 2**62])),
    "1000_axes": lambda: lying_initializer(lambda tensor, model: tensor.dims.extend([1] * 1000)),
    "a_type_of_nowhere": lambda: lying_initializer(lambda tensor, model: setattr(tensor, "data_type", 77)),
    "a_circle": lambda: onnx_model(
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Add", ["h", "b"], ["a"], {}),
            ("Add", ["a", "h"], ["b"], {}),
            ("Relu", ["b"], ["y"], {}),
        ],
        {},
    ),
    "a_node_of_itself": lambda: onnx_model([("Add", ["y", "x"], ["y"], {})], {}),
    "constant_of_shape_1e12": lambda: onnx_model(
        [("MatMul", ["x", "w"], ["h"], {}), ("ConstantOfShape", ["s"], ["c"], {}), ("Add", ["h", "c"], ["y"], {})],
        {"s": _int64(10**6, 10**6, 4)},
    ),
    "expand_1e12": lambda: after_linear("Expand", {"s": _int64(10**6, 10**6, 4)}),
    "tile_1e12": lambda: after_linear("Tile", {"s": _int64(10**6, 10**6)}),
    "pad_1e12": lambda: after_linear("Pad", {"s": _int64(10**6, 10**6, 0, 0)}),
    "reshape_huge": lambda: after_linear("Reshape", {"s": _int64(2**62, -1)}),
    "range_1e12": lambda: onnx_model(
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Range", ["a", "b", "c"], ["r"], {}),
            ("Cast", ["r"], ["f"], {"to": 1}),
            ("ReduceSum", ["f"], ["s"], {}),
            ("Add", ["h", "s"], ["y"], {}),
        ],
        {"a": _int64(0)[0], "b": _int64(10**12)[0], "c": _int64(1)[0]},
    ),
    "slices_of_nothing": lambda: after_linear("Slice", {"a": _int64(2**62), "b": _int64(-(2**62))}),
    "gather_beyond": lambda: after_linear("Gather", {"i": _int64(2**40)}),
    "a_chain_of_20000": lambda: chain_of(20_000),
    "doubled_60_times": lambda: onnx_model(
        [
            ("MatMul", ["x", "w"], ["h0"], {}),
            *(("Concat", [f"h{n}", f"h{n}"], [f"h{n + 1}"], {"axis": 1}) for n in range(60)),
            ("Relu", ["h60"], ["y"], {}),
        ],
        {},
    ),
    "no_graph": lambda: b"\x08\x08\x12\x00",
}.items():
    _add(CHECKPOINTS, f"{name}.onnx", content)


# datasets --------------------------------------------------------------------------------------------------------


def npz(**members: bytes) -> bytes:
    return zipped({f"{name}.npy": content for name, content in members.items()})


def npy(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    raw = header if isinstance(header, bytes) else header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw + data


def described(descr: str, shape: str, data: bytes = b"", order: str = "False") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}", data)


def lines(*rows: str) -> bytes:
    good = [f'{{"text": "a good line {n}", "label": {n % 2}}}' for n in range(8)]
    return "\n".join([*good, *rows]).encode()


def questions(*rows: str) -> bytes:
    good = [f'{{"question": "q{n}?", "choices": ["a", "b"], "answer": 0}}' for n in range(8)]
    return "\n".join([*good, *rows]).encode()


def table(**columns: object) -> bytes:
    import pyarrow
    import pyarrow.parquet

    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), target)
    return target.getvalue()


def arrow(values: list[object], kind: str) -> object:
    import pyarrow

    return pyarrow.array(values, type=eval(kind, {"pa": pyarrow}))  # noqa: S307 - of this file


F4 = b"\0\0\x80?"
for name, content in {
    "half_a_character_in_a_text.jsonl": lambda: lines('{"text": "\\ud800", "label": 1}'),
    "half_a_character_in_a_label.jsonl": lambda: lines('{"text": "a", "label": "\\udc00"}'),
    "half_a_character_in_a_name.jsonl": lambda: b'{"text\\ud800": "a"}\n' * 8,
    "half_a_character_in_a_question.jsonl": lambda: questions(
        '{"question": "\\ud800", "choices": ["a", "b"], "answer": 0}'
    ),
    "half_a_character_in_a_choice.jsonl": lambda: questions(
        '{"question": "q", "choices": ["a", "\\ud800"], "answer": 0}'
    ),
    "a_zero_byte_in_a_text.jsonl": lambda: lines('{"text": "a\\u0000b", "label": 1}'),
    "a_zero_byte_in_a_label.jsonl": lambda: lines('{"text": "a", "label": "b\\u0000"}'),
    "no_text.jsonl": lambda: lines('{"text": null, "label": 1}'),
    "a_text_that_is_a_number.jsonl": lambda: lines('{"text": 7, "label": 1}'),
    "a_label_of_5000_digits.jsonl": lambda: lines('{"text": "a", "label": ' + "9" * 5000 + "}"),
    "a_label_of_2e62.jsonl": lambda: lines('{"text": "a", "label": 4611686018427387904}'),
    "a_label_that_is_negative.jsonl": lambda: lines('{"text": "a", "label": -3}'),
    "a_label_that_is_none.jsonl": lambda: lines('{"text": "a", "label": NaN}'),
    "lists_100000_deep.jsonl": lambda: lines('{"text": ' + "[" * 10**5 + "]" * 10**5 + "}"),
    "a_name_in_every_row.jsonl": lambda: b"\n".join(b'{"text": "a %d", "label": "%d"}' % (n, n) for n in range(300)),
    "an_answer_beyond.jsonl": lambda: questions('{"question": "q", "choices": ["a", "b"], "answer": 99999999999}'),
    "1000_choices.jsonl": lambda: questions(json.dumps({"question": "q", "choices": ["a"] * 1000, "answer": 0})),
    "choices_that_are_a_text.jsonl": lambda: questions('{"question": "q", "choices": "ab", "answer": 0}'),
    "an_open_quote.csv": lambda: b'text,label\n"a,1\n' * 8,
    "a_field_of_12_MB.csv": lambda: b"text,label\na,1\n" + b"a" * 12_000_000 + b",0\n",
    "columns_of_100000.csv": lambda: b"text," + b"," * 100_000 + b"\n" + b"a\n" * 8,
    "a_header_alone.csv": lambda: b"text,label\n",
    "no_unicode.csv": lambda: b"text,label\n\xff\xfe,1\n",
    "a_zero_byte.csv": lambda: b"text,label\na\0b,1\n",
    "a_zero_byte.txt": lambda: b"abc\0def" * 100,
    "half_a_character.txt": lambda: b"abc \xed\xa0\x80 " * 100,
    "objects.npz": lambda: npz(x=described("'|O'", "(2, 2)", pickle.dumps([1]))),
    "objects_inside.npz": lambda: npz(x=described("[('a', '|O')]", "(2, 2)", pickle.dumps([1]))),
    "shape_of_1e30.npz": lambda: npz(x=described("'<f4'", f"({10**30}, 4)")),
    "shape_of_zero_and_1e30.npz": lambda: npz(x=described("'<f4'", f"(0, {10**30})")),
    "shape_that_is_negative.npz": lambda: npz(x=described("'<f4'", "(-1, -4)", F4 * 4)),
    "shape_that_is_true.npz": lambda: npz(x=described("'<f4'", "(True, 1)", F4)),
    "shape_of_100_axes.npz": lambda: npz(x=described("'<f4'", "(" + "1," * 100 + ")", F4)),
    "a_header_of_4_GB.npz": lambda: npz(x=npy(b" " * 300_000_000, version=2)),
    "a_header_100000_deep.npz": lambda: npz(x=npy("(" * 9000, version=2)),
    "a_header_that_is_code.npz": lambda: npz(x=npy("__import__('os').system('true')")),
    "a_dtype_of_2e31.npz": lambda: npz(x=described("'<U2000000000'", "(1, 1)")),
    "a_dtype_of_no_bytes.npz": lambda: npz(x=described("'|S0'", f"({10**9}, {10**9})")),
    "a_void_of_no_bytes.npz": lambda: npz(x=described("'|V0'", f"({10**9}, {10**9})")),
    "a_dtype_in_a_dtype.npz": lambda: npz(x=described("('<f4', (10**9, 10**9))", "(1,)")),
    "a_dtype_of_subarrays.npz": lambda: npz(x=described("('<f4', (1000000000, 1000000000))", "(1,)")),
    "complex_numbers.npz": lambda: npz(x=described("'<c8'", "(2, 2)", F4 * 8)),
    "dates.npz": lambda: npz(x=described("'<M8[s]'", "(2, 2)", b"\0" * 32)),
    "labels_of_no_text.npz": lambda: npz(
        x=described("'<f4'", "(4, 1)", F4 * 4),
        y=described("'<U1'", "(4,)", struct.pack("<4I", 0xD800, 0x110000, 65, 66)),
    ),
    "labels_of_2e62.npz": lambda: npz(
        x=described("'<f4'", "(4, 1)", F4 * 4), y=described("'<i8'", "(4,)", struct.pack("<4q", 0, 1, 2, 2**62))
    ),
    "labels_of_unsigned_2e64.npz": lambda: npz(
        x=described("'<f4'", "(4, 1)", F4 * 4), y=described("'<u8'", "(4,)", struct.pack("<4Q", 0, 1, 2, 2**64 - 1))
    ),
    "labels_that_are_infinite.npz": lambda: npz(
        x=described("'<f4'", "(4, 1)", F4 * 4), y=described("'<f4'", "(4,)", struct.pack("<4f", 0, 1, 2, float("inf")))
    ),
    "nulls.parquet": lambda: table(text=["a", None] * 8, label=[0, 1] * 8),
    "labels_that_are_null.parquet": lambda: table(text=["a", "b"] * 8, label=[0, None] * 8),
    "all_null.parquet": lambda: table(text=[None] * 8, label=[None] * 8),
    "numbers_that_are_none.parquet": lambda: table(a=[1.0, float("nan")] * 8, label=[0, 1] * 8),
    "lists_of_other_lengths.parquet": lambda: table(x=[[1.0], [1.0, 2.0]] * 8, label=[0, 1] * 8),
    "lists_that_are_empty.parquet": lambda: table(x=[[], []] * 8, label=[0, 1] * 8),
    "no_images.parquet": lambda: table(image=[b"abc", b"\x89PNG"] * 8, label=[0, 1] * 8),
    "images_that_are_null.parquet": lambda: table(image=arrow([None] * 8, "pa.binary()"), label=[0, 1] * 4),
    "bytes_that_are_no_text.parquet": lambda: table(
        text=arrow([b"\xff\xfe"] * 8, "pa.binary()").view("string"), label=[0, 1] * 4
    ),
    "cut_short.parquet": lambda: table(text=["a"] * 8)[:-20],
    "only_its_mark.parquet": lambda: b"PAR1PAR1",
    "a_footer_of_2_GB.parquet": lambda: b"PAR1" + b"\0" * 40 + struct.pack("<I", 2**31 - 1) + b"PAR1",
    "an_image_that_is_none.zip": lambda: zipped({f"{c}/{n}.png": b"\x89PNG\r\n\x1a\n" for c in "ab" for n in range(4)}),
    "classes_that_climb.zip": lambda: zipped({"../a/1.png": b"1", "b/1.png": b"2"}),
}.items():
    _add(DATASETS, name, content)
