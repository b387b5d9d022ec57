"""Which trainer won: scores on held-out crops, one line per result, and the winner's weights in a file."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import zpipe as zp
from services.textures.features import features
from services.textures.photos import CLASSES, held_out_crops
from services.textures.trainer import Floats, Weights, predict


class Evaluate:
    """Score a trained classifier on `crops` crops of the held-out parts, the same ones for every result.

    In:  lr, hidden, steps, loss, weights {name: float32}
    Out: the same (loss None where training diverged) and accuracy, baseline (of always naming the most
         frequent class), by_class {name: accuracy}, held_out (crops), weights_sha256
    """

    def __init__(self, crops: int = 3000, size: int = 128, seed: int = 0) -> None:
        self.crops, self.size, self.seed = crops, size, seed

    def __call__(self, result: dict[str, Any]) -> dict[str, Any]:
        inputs, labels = self.held_out
        right = predict(result["weights"], inputs) == labels
        return {
            **result,
            "loss": round(result["loss"], 6) if math.isfinite(result["loss"]) else None,  # JSON knows no NaN
            "accuracy": round(float(right.mean()), 4),
            "baseline": round(float(np.bincount(labels).max() / len(labels)), 4),
            "by_class": {CLASSES[k]: round(float(right[labels == k].mean()), 4) for k in np.unique(labels)},
            "held_out": len(labels),
            "weights_sha256": fingerprint(result["weights"]),
        }

    @functools.cached_property
    def held_out(self) -> tuple[Floats, npt.NDArray[np.intp]]:
        """The features (crops, width) and labels (crops,) of the held-out crops."""
        items = [features(item) for item in held_out_crops(self.crops, size=self.size, seed=self.seed)]
        labels = np.array([item["label"] for item in items], np.intp)
        return np.stack([item["features"] for item in items]), labels


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Leave the weights out of a result: what is left is one line of JSON."""
    return {name: value for name, value in result.items() if name != "weights"}


class Item(Protocol):
    """What a sink is given to commit."""

    @property
    def value(self) -> Any: ...


class Results:
    """Keep one JSON line per learning rate in the file `path`, highest first, relative to the run folder.

    In: what `Evaluate` gives.  Holds: nothing; the lines so far are read from the file, so a result that comes
    twice, a kill at any moment and any order of results leave the same bytes.
    """

    def __init__(self, path: str = "results.jsonl") -> None:
        self.path = Path(zp.run_folder()) / path

    def commit(self, items: Iterable[Item]) -> None:
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        lines = {line["lr"]: line for line in map(json.loads, text.splitlines())}
        lines |= {item.value["lr"]: summary(item.value) for item in items}
        ranked = (lines[lr] for lr in sorted(lines, reverse=True))
        _replace(self.path, "".join(json.dumps(line) + "\n" for line in ranked).encode())

    def close(self) -> None:
        """Release nothing: no file stays open between commits."""


class Winner:
    """Keep the weights of the most accurate result in the file `path` (.npz), relative to the run folder.

    In: what `Evaluate` gives.  Holds: nothing; the best so far is read from the file, so a result that comes
    twice, a kill at any moment and any order of results leave the same file.
    Of equally accurate results the lowest lr wins.
    """

    def __init__(self, path: str = "winner.npz") -> None:
        self.path = Path(zp.run_folder()) / path

    def commit(self, items: Iterable[Item]) -> None:
        best = max((item.value for item in items), key=_rank, default=None)
        if best is not None and _rank(best) > self._rank_on_file():
            held = io.BytesIO()
            np.savez(held, **{name: best[name] for name in ("lr", "accuracy")}, classes=CLASSES, **best["weights"])
            _replace(self.path, held.getvalue())

    def close(self) -> None:
        """Release nothing: no file stays open between commits."""

    def _rank_on_file(self) -> tuple[float, float]:
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                return _rank({"accuracy": float(saved["accuracy"]), "lr": float(saved["lr"])})
        except FileNotFoundError:
            return (-1.0, 0.0)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a kill leaves the old one, and a .part to be overwritten."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def fingerprint(weights: Weights) -> str:
    """Return the SHA-256 of all weights: name, type, shape and bytes of each, sorted by name."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype.str} {weight.shape}\n".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _rank(result: dict[str, Any]) -> tuple[float, float]:
    return result["accuracy"], -result["lr"]
