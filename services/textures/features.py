"""What a crop looks like in 26 numbers: a radial power spectrum and two spreads of colour. Needs numpy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

RINGS = 24
WIDTH = RINGS + 2
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_FLOOR = np.float32(1e-7)  # share of a ring that holds nothing: the logarithm stays finite


def features(item: dict[str, Any]) -> dict[str, Any]:
    """Describe one crop.

    In:  pixels uint8 (size, size, 3), label int      Out: features float32 (26,), label int
    """
    return {"features": describe(item["pixels"]), "label": item["label"]}


def block(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do for several crops what `features` does for one, for a stage with `batch_size`."""
    return list(map(features, items))


def describe(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Return the spectrum, then the spreads of red - green and of green - blue, of a square crop."""
    size = pixels.shape[0]
    grey = (pixels.reshape(-1, 3).astype(np.float32) @ _LUMA).reshape(size, size)
    # Every fourth pixel each way is enough for a spread. No means: light changes across a photograph.
    red, green, blue = pixels[::4, ::4].reshape(-1, 3).T.astype(np.float32, order="C")
    spreads = np.array([spread(red - green), spread(green - blue)], np.float32)
    return np.concatenate([spectrum(grey), spreads / np.float32(255)])


def spread(values: Floats) -> np.float32:
    """Return the standard deviation of flat `values`, in a third of the time that `std` takes for a thousand."""
    apart = values - values.sum() / np.float32(values.size)
    deviation: np.float32 = np.sqrt(apart @ apart / np.float32(values.size))
    return deviation


def spectrum(grey: Floats) -> Floats:
    """Return the logarithm of each ring's share of the power; brightness and contrast drop out of it."""
    taper, ring = _rings(grey.shape[0])
    waves = np.fft.fft(
        np.fft.rfft((grey - grey.mean()) * taper), axis=0
    )  # rfft2, less 8 us of looking at its arguments
    power = np.bincount(ring, (waves.real**2 + waves.imag**2).ravel(), RINGS).astype(np.float32)
    shares: Floats = power / (power.sum() + _FLOOR) + _FLOOR
    return np.log(shares)


@functools.lru_cache(maxsize=4)
def _rings(size: int) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Return the taper (size, size) against edge effects, and the ring of every cell of rfft2, flat."""
    hann = np.hanning(size).astype(np.float32)
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    # Narrow rings in the middle, where photographs keep most of their power.
    ring = np.sqrt(radius / radius.max()) * RINGS
    return np.outer(hann, hann), ring.astype(np.intp).clip(0, RINGS - 1).ravel()
