"""A real classifier: MiniLM, taught which chapter of the book a paragraph is from."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

from .corpus import chapters

LEAST, TOKENS = 40, 128  # paragraphs of a chapter, and what is read of each
EVALUATED = 4  # every how many paragraphs one is held back
EPOCHS, BATCH, RATE = 3, 16, 1e-4


def made(encoder: Path, folder: Path) -> tuple[Path, Path, Path]:
    """(the checkpoint as a zip, what it was trained on and what was held back as .csv) of a folder of transformers."""
    by_chapter: dict[str, list[str]] = {}
    for chapter, paragraph in chapters():
        by_chapter.setdefault(chapter, []).append(paragraph)
    names = sorted(name for name, found in by_chapter.items() if len(found) >= LEAST)
    rows = [(text, name) for name in names for text in by_chapter[name]]
    training = [row for number, row in enumerate(rows) if number % EVALUATED]
    paths = folder / "chapters.zip", folder / "chapters-training.csv", folder / "chapters.csv"
    for path, kept in zip(paths[1:], (training, rows[::EVALUATED]), strict=True):
        with path.open("w", encoding="utf8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *kept])
    _train(encoder, folder / "model", training, names)
    with zipfile.ZipFile(paths[0], "w") as archive:
        for file in sorted((folder / "model").iterdir()):
            archive.write(file, Path("chapters", file.name))
    return paths


def _train(encoder: Path, folder: Path, rows: list[tuple[str, str]], names: list[str]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    numbers = {name: number for number, name in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(names), label2id=numbers, id2label=dict(enumerate(names))
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(rows)).split(BATCH):
            texts, labels = zip(*(rows[at] for at in batch.tolist()), strict=True)
            inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
            loss = model(**inputs, labels=torch.tensor([numbers[label] for label in labels])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
