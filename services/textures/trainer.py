"""A small classifier that learns from a stream, in plain numpy; knows nothing of photographs or pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]

LAYERS = ("w1", "b1", "w2", "b2")
_TINY = 1e-6


class Train:
    """Train a classifier with one hidden layer by gradient descent with momentum, one step per batch.

    In:  features float32 (n, width), label int (n,)      Out: nothing; at the end one result:
         lr float, hidden int, steps int, loss float, weights {mean, scale, w1, b1, w2, b2} float32
    Inputs are scaled by the mean and spread of all seen so far.  Holds: the weights, twice.
    The same batches in the same order give the same bits, on the same machine with one BLAS thread.
    """

    def __init__(
        self,
        lr: float,
        hidden: int = 64,
        *,
        width: int = 26,
        classes: int = 6,
        momentum: float = 0.9,
        seed: int = 0,
    ) -> None:
        self.lr, self.hidden, self.momentum = lr, hidden, momentum
        rng = np.random.default_rng(seed)
        self.weights: Weights = {
            "w1": _he(rng, width, hidden),
            "b1": np.zeros(hidden, np.float32),
            "w2": _he(rng, hidden, classes),
            "b2": np.zeros(classes, np.float32),
        }
        self.velocity = {name: np.zeros_like(weight) for name, weight in self.weights.items()}
        self.steps = 0
        self.loss = float(np.log(classes))  # what guessing costs; then a moving average
        self.seen = 0
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)  # sum of squared distances from the mean

    def __call__(self, batch: dict[str, Any]) -> None:
        # A copy: what arrives may lie at any address, and sums over unaligned arrays run in another order.
        inputs = np.array(batch["features"], np.float32)
        labels = np.array(batch["label"], np.intp)
        self._watch(inputs)
        with np.errstate(over="ignore", invalid="ignore"):  # a rate too high is a bad result, not a fault
            loss, gradients = learn(self.weights, normalise(inputs, *self._scaling()), labels)
            for name, gradient in gradients.items():
                self.velocity[name] *= np.float32(self.momentum)
                self.velocity[name] -= np.float32(self.lr) * gradient
                self.weights[name] += self.velocity[name]
        self.steps += 1
        self.loss += 0.01 * (loss - self.loss)

    def finish(self) -> Iterator[dict[str, Any]]:
        """Yield the one result."""
        mean, scale = self._scaling()
        weights = {"mean": mean, "scale": scale, **self.weights}
        settings = {"lr": self.lr, "hidden": self.hidden}
        yield {**settings, "steps": self.steps, "loss": self.loss, "weights": weights}

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        layers = {name: self.weights[name].copy() for name in LAYERS}
        velocity = {f"velocity_{name}": self.velocity[name].copy() for name in LAYERS}
        scaling = {"seen": self.seen, "mean": self.mean.copy(), "squares": self.squares.copy()}
        return {"steps": self.steps, "loss": self.loss, **scaling, **layers, **velocity}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.steps, self.loss, self.seen = int(state["steps"]), float(state["loss"]), int(state["seen"])
        self.mean, self.squares = np.array(state["mean"]), np.array(state["squares"])
        self.weights = {name: np.array(state[name]) for name in LAYERS}
        self.velocity = {name: np.array(state[f"velocity_{name}"]) for name in LAYERS}

    def _watch(self, inputs: Floats) -> None:
        """Merge a batch into the mean and spread (Chan, Golub, LeVeque 1979), in float64."""
        batch = inputs.astype(np.float64)
        mean = batch.mean(axis=0)
        seen = self.seen + len(batch)
        apart = mean - self.mean
        self.squares += ((batch - mean) ** 2).sum(axis=0) + apart**2 * (self.seen * len(batch) / seen)
        self.mean = self.mean + apart * (len(batch) / seen)
        self.seen = seen

    def _scaling(self) -> tuple[Floats, Floats]:
        spread = np.sqrt(self.squares / max(self.seen, 1)) + _TINY
        return self.mean.astype(np.float32), (1 / spread).astype(np.float32)


def predict(weights: Weights, inputs: Floats) -> npt.NDArray[np.intp]:
    """Return the most likely class of each row of `inputs` (n, width), given the weights of a result."""
    rows = normalise(inputs, weights["mean"], weights["scale"])
    hidden = np.maximum(rows @ weights["w1"] + weights["b1"], 0)
    best: npt.NDArray[np.intp] = np.argmax(hidden @ weights["w2"] + weights["b2"], axis=1)
    return best


def normalise(inputs: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return `inputs` scaled, within five spreads: a rare crop must not throw the weights off."""
    return ((inputs - mean) * scale).clip(-5, 5)


def learn(weights: Weights, rows: Floats, labels: npt.NDArray[np.intp]) -> tuple[float, Weights]:
    """Return the mean cross-entropy of scaled `rows` (n, width) and its gradient for each of the `LAYERS`."""
    each = np.arange(len(rows))
    hidden = np.maximum(rows @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    loss = float(-np.log(chances[each, labels] + _TINY).mean())
    chances[each, labels] -= 1
    off = chances / np.float32(len(rows))
    back = (off @ weights["w2"].T) * (hidden > 0)
    return loss, {"w1": rows.T @ back, "b1": back.sum(axis=0), "w2": hidden.T @ off, "b2": off.sum(axis=0)}


def _he(rng: np.random.Generator, inputs: int, outputs: int) -> Floats:
    """Return random weights for rectified units (He et al. 2015)."""
    return rng.standard_normal((inputs, outputs), np.float32) * np.float32(np.sqrt(2 / inputs))
