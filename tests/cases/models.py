"""Checkpoints of every kind, with a dataset that judges each: what the table of artifacts is made of."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim

from tests.cases import corpus
from tests.engine.importers.exported_program.exported import ConvEmbedAttend, export
from webapp.engine.architectures.resnet import ResNetModule
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.samples import CHECKPOINT, DATASET

PROSE_CHARACTERS = 60_000


def digits(folder: Path) -> tuple[Path, Path]:
    return CHECKPOINT, DATASET


def resnet18(folder: Path) -> tuple[Path, Path]:
    """torchvision's names and sizes, random weights, images of noise."""
    config = {"base": 64, "width": 64, "channels": 3, "kernel": 7, "blocks": [2, 2, 2, 2], "classes": 1000}
    config |= {"bottleneck": False, "groups": 1, "bias": True, "counted": True}
    torch.manual_seed(0)
    torch.save(ResNetModule(config).state_dict(), folder / "resnet18.pth")
    x = np.random.default_rng(0).standard_normal((20, 3, 96, 96), np.float32)
    np.savez(folder / "noise.npz", x=x, y=np.arange(20))
    return folder / "resnet18.pth", folder / "noise.npz"


def minilm(folder: Path, source: Path) -> tuple[Path, Path]:
    return zipped(source, folder / "all-MiniLM-L6-v2.zip"), prose(folder)


def smollm2(folder: Path, gguf: Path) -> tuple[Path, Path]:
    """As it is published, and nearly every other language model: a folder of bfloat16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    widened, published = folder / "widened", folder / "published"
    widened.mkdir()
    inspect_checkpoint(gguf, gguf.name, widened, Silent(), dequantize=True)
    AutoModelForCausalLM.from_pretrained(widened, dtype=torch.bfloat16).save_pretrained(published)
    AutoTokenizer.from_pretrained(widened).save_pretrained(published)
    return zipped(published, folder / "SmolLM2-135M-Instruct.zip"), prose(folder)


def zipped(source: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(source.rglob("*")):
            archive.write(file, Path(path.stem, file.relative_to(source)))
    return path


def prose(folder: Path) -> Path:
    (folder / "book.txt").write_text(corpus.halves()[1][:PROSE_CHARACTERS], encoding="utf8")
    return folder / "book.txt"


def classifier(folder: Path, source: Path) -> tuple[Path, Path]:
    """MiniLM's encoder below a classifier of three classes that was drawn at random; sentences of the book."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(source, num_labels=3, local_files_only=True)
    model.save_pretrained(folder / "classifier")
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder / "classifier")
    sentences = [s.strip() for s in corpus.halves()[1].split(". ") if 8 <= len(s.split()) <= 40][:200]
    rows = [json.dumps({"text": text, "label": number % 3}) for number, text in enumerate(sentences)]
    (folder / "sentences.jsonl").write_text("\n".join(rows), encoding="utf8")
    return zipped(folder / "classifier", folder / "classifier.zip"), folder / "sentences.jsonl"


def program(folder: Path) -> tuple[Path, Path]:
    """A module with convolution, embedding and attention, as torch exports it."""
    torch.manual_seed(0)
    ids = torch.randint(0, 60, (400, 12))
    export(ConvEmbedAttend(), (ids[:4],), folder / "module.pt2", ({0: Dim("batch")},))
    np.savez(folder / "tokens.npz", x=ids.numpy(), y=np.arange(400) % 5)
    return folder / "module.pt2", folder / "tokens.npz"
