"""Trains the sample: a small CNN on scikit-learn's 8 × 8 digits. Writes the files beside this script.

    python -m webapp.samples.train_digits [FOLDER]

Needs scikit-learn, which Pare itself does not. About a minute on one core; the same seed gives the same accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
SEED = 0
HELD_OUT = 540  # of 1797 images: 30 %
EPOCHS = 60
BATCH = 64
PEAK_RATE = 2e-3
CHANNELS = (48, 96)
HIDDEN = 320
CLASSES = 10

Arrays = dict[str, np.ndarray]


def digits() -> Arrays:
    """x_train (1257, 1, 8, 8), x_test (540, 1, 8, 8) float32 in 0..1; y_train, y_test int64. Shuffled by SEED."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    x = (bunch.images[order, None] / 16).astype(np.float32)
    y = bunch.target[order].astype(np.int64)
    return {
        "x_train": x[:-HELD_OUT],
        "y_train": y[:-HELD_OUT],
        "x_test": x[-HELD_OUT:],
        "y_test": y[-HELD_OUT:],
    }


def network() -> nn.Sequential:
    """Twice conv, ReLU and max pool 2 × 2, then two linear layers: (B, 1, 8, 8) -> (B, 10) logits."""
    first, second = CHANNELS
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, first, 5, padding=2),  # (B, 48, 8, 8)
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 3, padding=1),  # (B, 96, 4, 4)
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
        )
    )
    classifier = nn.Sequential(
        OrderedDict(
            dropout=nn.Dropout(0.3),
            fc1=nn.Linear(second * 2 * 2, HIDDEN),
            relu=nn.ReLU(),
            fc2=nn.Linear(HIDDEN, CLASSES),
        )
    )
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by up to one pixel each way, so that 1257 images go further. Shape stays (B, 1, 8, 8)."""
    down, right = (int(torch.randint(0, 3, (), generator=generator)) for _ in range(2))
    return functional.pad(x, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(data: Arrays) -> nn.Sequential:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    x, y = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"])
    model = network()
    steps_per_epoch = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=EPOCHS * steps_per_epoch)
    model.train()
    for epoch in range(EPOCHS):
        losses = []
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = functional.cross_entropy(model(shifted(x[batch], generator)), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:2} of {EPOCHS}: loss {np.mean(losses):.4f}")
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Share of images whose largest logit is the label's, 0 to 1."""
    return float((model(torch.from_numpy(x)).argmax(1) == torch.from_numpy(y)).float().mean())


def metadata() -> dict[str, str]:
    """The file's header: what the tensors alone do not say, where the pools are and that ReLU stands between."""
    steps: list[dict[str, object]] = []
    for name, module in network().named_modules():
        match module:
            case nn.Conv2d():
                steps.append({"op": "conv2d", "name": name, "stride": module.stride[0], "padding": module.padding[0]})
            case nn.MaxPool2d():
                steps.append({"op": "max_pool2d", "size": module.kernel_size})
            case nn.Linear():
                steps.append({"op": "linear", "name": name})
            case nn.ReLU():
                steps.append({"op": "relu"})
            case nn.Flatten():
                steps.append({"op": "flatten"})
    architecture = {"family": "cnn", "input": [1, 8, 8], "steps": steps}
    return {"format": "pt", "pare_architecture": json.dumps(architecture, sort_keys=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the order of additions, and so the weights, depend on it
    data = digits()
    model = train(data)
    held_out = accuracy(model, data["x_test"], data["y_test"])
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"accuracy on {HELD_OUT} held-out digits: {held_out:.2%}")
    if held_out <= 0.97:
        raise SystemExit("Not above 97 %: nothing was written.")
    np.savez_compressed(folder / "digits.npz", **data)
    np.savez_compressed(folder / "digits_unlabelled.npz", x=data["x_test"])
    save_file(model.state_dict(), folder / "digits_cnn.safetensors", metadata=metadata())


if __name__ == "__main__":
    main()
