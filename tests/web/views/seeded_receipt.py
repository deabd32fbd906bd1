"""A receipt as the engine writes it, with one row that fell short."""

from __future__ import annotations

from typing import Any


def receipt(name: str, baseline: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    total = result["size_bytes"]
    quality = [
        {
            "metric": key,
            "title": after["title"],
            "higher_is_better": after["higher_is_better"],
            "against_original": False,
            "baseline": baseline["metrics"].get(key),
            "result": after,
            "difference": -0.02,
            "ci95": [-0.03, -0.01],
            "verdict": "worse",
        }
        for key, after in result["metrics"].items()
    ]
    vectors = "vectors are small and sensitive; changed by a cast and by training only"
    return {
        "version": 1,
        "unreached": [{"what": "2 vectors, such as layers.0.bias", "bytes": 84, "share": 84 / total, "why": vectors}],
        "title": name,
        "verdict": {
            "metric": "accuracy",
            "verdict": "worse",
            "sentence": "50.0 % smaller; accuracy 97.00 % → 95.00 %: worse (n = 540).",
            "difference": -0.02,
            "ci95": [-0.03, -0.01],
            "n": 540,
        },
        "summary": [
            {"label": "File", "before": baseline["size_bytes"], "after": total, "unit": "bytes"},
            {"label": "Sparsity", "before": 0.0, "after": result["sparsity"], "unit": "share"},
            {"label": "Parameters", "before": 2410, "after": 2410, "unit": ""},
        ],
        "bytes": {
            "file": [{"part": "header and manifest", "bytes": 1000}, {"part": "tensors", "bytes": total - 1000}],
            "total": total,
            "tensors": [
                {
                    "name": "layers.0.weight",
                    "storage": "sparse float32 + bitmask",
                    "shape": [32, 64],
                    "parts": [
                        {"name": "layers.0.weight.values", "dtype": "float32", "bytes": total - 1300},
                        {"name": "layers.0.weight.mask", "dtype": "uint8", "bytes": 256},
                    ],
                    "bytes": total - 1044,
                    "bits_per_weight": 8.0,
                },
                {
                    "name": "layers.0.bias",
                    "storage": "dense float32",
                    "shape": [32],
                    "parts": [{"name": "layers.0.bias", "dtype": "float32", "bytes": 44}],
                    "bytes": 44,
                    "bits_per_weight": 32.0,
                },
            ],
        },
        "parameters": {
            "total": 2410,
            "nonzero": 1205,
            "stored": 1205,
            "prunable": 2368,
            "sparsity": 0.5,
            "prunable_sparsity": 0.51,
        },
        "credit": [
            {
                "label": "A plain cast to float16",
                "bytes_before": 10_008,
                "bytes_after": 5_200,
                "saved": 4_808,
                "share": 0.48,
                "note": "credited to no technique",
            },
            {
                "label": "Step 1: Magnitude pruning",
                "bytes_before": 5_200,
                "bytes_after": total,
                "saved": 5_200 - total,
                "share": 0.02,
                "note": "",
            },
        ],
        "quality": quality,
        "quality_unavailable": result["metrics_unavailable"],
        "speed": {
            "baseline": {"p50": 0.2, "p95": 0.3},
            "result": {"p50": 0.21, "p95": 0.34},
            "batch": 1,
            "threads": 1,
            "runtime": "torch 2",
            "hardware": "a CPU",
            "note": "",
        },
        "requested": [
            {
                "step": 1,
                "technique": "magnitude_pruning",
                "layer": "layers.0",
                "asked": "50 % zeros",
                "done": "50.0 % zeros",
                "ok": True,
                "skipped": False,
                "note": "",
            },
            {
                "step": 1,
                "technique": "magnitude_pruning",
                "layer": "layers.2",
                "asked": "50 % zeros",
                "done": "left as it is",
                "ok": False,
                "skipped": True,
                "note": "It is too small to be pruned.",
            },
        ],
        "steps": [
            {
                "technique": "magnitude_pruning",
                "title": "Magnitude pruning",
                "settings": {"sparsity": 0.5},
                "seconds": 0.1,
                "layers": [],
            }
        ],
        "notes": [],
        "proof": [
            {
                "artifact": "model.safetensors",
                "loaded_by": "a clean process",
                "runtime": "torch 2",
                "max_abs_difference": 0.0,
                "tolerance": 1e-5,
                "agreed": True,
                "seconds": 0.2,
            }
        ],
        "provenance": {
            "checkpoint": {
                "name": "digits.safetensors",
                "filename": "digits.safetensors",
                "digest": "a" * 64,
                "size_bytes": 10_008,
            },
            "dataset": {
                "name": "digits.npz",
                "digest": "d" * 64,
                "n": 540,
                "split": "70/30",
                "evaluation_digest": "b" * 64,
            },
            "training_dataset": None,
            "recipe_digest": "e" * 64,
            "recipe_yaml": "version: 1\nsteps:\n- technique: magnitude_pruning\n",
            "code": "f" * 64,
            "versions": {"pare": "0.1.0", "python": "3.11", "torch": "2"},
            "seed": 0,
            "started_at": None,
            "machine": "Linux x86_64",
        },
    }
