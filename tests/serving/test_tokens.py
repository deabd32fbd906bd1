"""Texts become the tokens of a model; those of different lengths one table only where the model tells them apart."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from webapp.engine.exporters.onnx.signature import TextSignature
from webapp.serving.errors import Refused
from webapp.serving.model import Tokens


@pytest.fixture
def tokens(tmp_path):
    """Of a tokenizer with this padding token, or none."""

    def made(pad=None):
        words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3}, unk_token="a"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad} if pad else {}))
        return Tokens(tmp_path, TextSignature(tokenizer="tokenizer.json", max_tokens=8))

    return made


def test_a_classifier_without_a_padding_token_takes_texts_of_one_length(tokens):
    assert tokens().batch(["a b", "b c"], padded=False)["input_ids"].tolist() == [[1, 2], [2, 3]]
    with pytest.raises(Refused, match="no padding token: send texts of different lengths one at a time"):
        tokens().batch(["a b c", "b"], padded=False)
    assert tokens("[PAD]").batch(["a b c", "b"], padded=False)["input_ids"].tolist() == [[1, 2, 3], [2, 0, 0]]


def test_a_model_that_reads_its_mask_takes_any(tokens):
    found = tokens().batch(["a b c", "b"])
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
