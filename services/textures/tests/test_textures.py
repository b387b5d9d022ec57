"""What the services of the textures pipeline promise, each called as a plain function or class."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import zpipe
from services.textures import photos
from services.textures.features import RINGS, WIDTH, describe, features, spectrum
from services.textures.judge import Evaluate, Results, Winner, fingerprint, summary
from services.textures.photos import CLASSES, crops, held_out_crops
from services.textures.trainer import LAYERS, Train, learn, predict

Crops = Callable[..., Iterator[dict[str, Any]]]


@pytest.fixture
def seeded_crops(monkeypatch: pytest.MonkeyPatch) -> Crops:
    """`crops` with zp.rng() as a worker would give it: seeded by the number of the item about to be made."""

    def make(count: int | None = None, size: int = 128, start: int = 0) -> Iterator[dict[str, Any]]:
        numbers = itertools.count(start)
        monkeypatch.setattr(zpipe, "rng", lambda: np.random.default_rng(next(numbers)), raising=False)
        return crops(count, size, start)

    return make


def at_every_address(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield read-only copies of `array` that begin at each of 64 byte offsets, as arrays in a frame may."""
    for offset in range(64):
        room = np.empty(array.nbytes + 128, np.uint8)
        first = -room.ctypes.data % 64 + offset
        copy = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copy.flags.writeable = False
        yield copy


def batches(count: int, *, rows: int = 64) -> list[dict[str, Any]]:
    """Return batches whose label is told by their first six numbers."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        labels = rng.integers(0, 6, rows)
        inputs = rng.normal(size=(rows, WIDTH)).astype(np.float32)
        inputs[np.arange(rows), labels] += 4
        out.append({"features": inputs, "label": labels})
    return out


def test_crops_are_square_rgb_and_read_only(seeded_crops: Crops) -> None:
    item = next(seeded_crops(1, 96))
    assert item["pixels"].shape == (96, 96, 3)
    assert item["pixels"].dtype == np.uint8
    assert not item["pixels"].flags.writeable
    assert type(item["label"]) is int


def test_a_source_begun_at_an_item_makes_the_same_items_from_there(seeded_crops: Crops) -> None:
    whole = list(seeded_crops(12))
    rest = list(seeded_crops(12, start=9))
    assert [item["label"] for item in rest] == [item["label"] for item in whole[9:]]
    assert all(np.array_equal(a["pixels"], b["pixels"]) for a, b in zip(rest, whole[9:], strict=True))


def test_crops_without_a_count_are_endless(seeded_crops: Crops) -> None:
    assert len(list(itertools.islice(seeded_crops(), 100))) == 100


def test_every_class_occurs(seeded_crops: Crops) -> None:
    assert {item["label"] for item in seeded_crops(100)} == {0, 1, 2, 3, 4, 5}
    assert CLASSES == ("brick", "grass", "gravel", "ihc", "hubble", "chelsea")


def test_the_held_out_part_is_the_right_30_percent_of_each_photograph() -> None:
    assert [part.shape[1] for part in photos.load(held_out=False)] == [358, 358, 358, 358, 700, 316]
    assert [part.shape[1] for part in photos.load(held_out=True)] == [154, 154, 154, 154, 300, 135]


def test_held_out_crops_are_the_same_every_time() -> None:
    first, second = list(held_out_crops(5)), list(held_out_crops(5))
    assert all(np.array_equal(a["pixels"], b["pixels"]) for a, b in zip(first, second, strict=True))


def test_a_size_that_no_photograph_holds_is_refused(seeded_crops: Crops) -> None:
    with pytest.raises(ValueError, match=r"size 400 does not fit into the photographs: give 1 to 300"):
        next(seeded_crops(1, 400))
    with pytest.raises(ValueError, match=r"give 1 to 135"):
        next(held_out_crops(1, size=136))


def test_the_eight_orientations_differ() -> None:
    photo = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert len({view.tobytes() for view in photos.orientations(photo)}) == 8


def test_jitter_stretches_about_mid_grey_then_shifts_and_clips() -> None:
    pixels = np.array([0, 28, 128, 228, 255], np.uint8)
    assert photos.jitter(pixels, 1.0, 0.0).tolist() == [0, 28, 128, 228, 255]
    assert photos.jitter(pixels, 0.5, 10.0).tolist() == [74, 88, 138, 188, 201]
    assert photos.jitter(pixels, 2.0, 0.0).tolist() == [0, 0, 128, 255, 255]


def test_features_are_float32_and_finite_even_for_a_black_crop() -> None:
    item = features({"pixels": np.zeros((128, 128, 3), np.uint8), "label": 3})
    assert item["features"].shape == (26,)
    assert item["features"].dtype == np.float32
    assert np.isfinite(item["features"]).all()
    assert item["label"] == 3


def test_the_spectrum_does_not_see_brightness_contrast_or_turns() -> None:
    grey = np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32)
    plain = spectrum(grey)
    assert np.allclose(spectrum(grey * 2 + 30), plain, atol=1e-3)
    assert np.allclose(spectrum(np.ascontiguousarray(np.rot90(grey))), plain, atol=0.2)


def test_a_fine_pattern_has_its_power_in_higher_rings_than_a_coarse_one() -> None:
    place = np.arange(128, dtype=np.float32)
    coarse, fine = (np.tile(np.sin(2 * np.pi * place / period), (128, 1)) for period in (64, 4))
    assert spectrum(coarse).argmax() == 3
    assert spectrum(fine).argmax() == 14
    assert RINGS == 24


def test_features_have_the_same_bits_at_any_address() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert len({describe(copy).tobytes() for copy in at_every_address(pixels)}) == 1


def test_training_learns_what_tells_the_labels_apart() -> None:
    fit = Train(lr=0.1)
    for batch in batches(60):
        fit(batch)
    (result,) = fit.finish()
    test = batches(61)[-1]
    assert (predict(result["weights"], test["features"]) == test["label"]).mean() > 0.9
    assert (result["lr"], result["hidden"], result["steps"]) == (0.1, 64, 60)
    assert {weight.dtype for weight in result["weights"].values()} == {np.dtype(np.float32)}


def test_a_restored_trainer_ends_with_the_same_bits() -> None:
    whole, first, second = Train(0.1), Train(0.1), Train(0.1)
    for batch in batches(20):
        whole(batch)
    for batch in batches(20)[:7]:
        first(batch)
    second.restore(first.state())
    for batch in batches(20)[7:]:
        second(batch)
    (a,), (b,) = whole.finish(), second.finish()
    assert fingerprint(a["weights"]) == fingerprint(b["weights"])
    assert a["loss"] == b["loss"]


def test_a_state_is_not_changed_by_further_training() -> None:
    fit = Train(0.1)
    state = fit.state()
    before = {name: np.array(value) for name, value in state.items()}
    fit(batches(1)[0])
    assert all(np.array_equal(state[name], before[name]) for name in before)


def test_a_restored_state_may_be_read_only() -> None:
    state = Train(0.1).state()
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    fit = Train(0.1)
    fit.restore(state)
    fit(batches(1)[0])
    assert fit.steps == 1


def test_training_has_the_same_bits_at_any_address() -> None:
    (batch,) = batches(1)
    ends = set()
    for inputs in at_every_address(batch["features"]):
        fit = Train(0.1)
        fit({"features": inputs, "label": batch["label"]})
        (result,) = fit.finish()
        ends.add(fingerprint(result["weights"]))
    assert len(ends) == 1


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    (batch,) = batches(1, rows=8)
    rows, labels = batch["features"].astype(np.float64), batch["label"]
    fit = Train(0.1, hidden=5)
    weights: dict[str, Any] = {name: weight.astype(np.float64) for name, weight in fit.weights.items()}
    _, gradients = learn(weights, rows, labels)
    for name in LAYERS:
        place = (0,) * weights[name].ndim
        losses = []
        for step in (1e-6, -1e-6):
            moved = {**weights, name: weights[name].copy()}
            moved[name][place] += step
            losses.append(learn(moved, rows, labels)[0])
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradients[name][place], rel=1e-3, abs=1e-7)


def test_a_trainer_that_saw_nothing_still_has_a_result() -> None:
    (result,) = Train(0.1).finish()
    assert result["steps"] == 0
    assert all(np.isfinite(weight).all() for weight in result["weights"].values())


@dataclass
class Item:
    path: str
    value: dict[str, Any]


def scored(lr: float, accuracy: float) -> dict[str, Any]:
    return {"lr": lr, "accuracy": accuracy, "weights": {"w1": np.full((2, 2), lr, np.float32)}}


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(zpipe, "run_folder", lambda: tmp_path, raising=False)
    return tmp_path


def winner_of(path: Path) -> float:
    with np.load(path) as saved:
        return float(saved["lr"])


def test_a_result_is_scored_and_summed_up_in_json() -> None:
    (result,) = Train(0.1).finish()
    line = json.loads(json.dumps(summary(Evaluate(crops=60)(result)), allow_nan=False))
    assert sorted(line) == [
        "accuracy", "baseline", "by_class", "held_out", "hidden", "loss", "lr", "steps", "weights_sha256"
    ]  # fmt: skip
    assert line["held_out"] == 60
    assert line["baseline"] == 0.25
    assert list(line["by_class"]) == list(CLASSES)


def test_a_trainer_that_diverged_is_a_result_without_a_loss() -> None:
    fit = Train(1e30)
    for batch in batches(5):
        fit(batch)
    (result,) = fit.finish()
    assert Evaluate(crops=60)(result)["loss"] is None


def test_a_fingerprint_changes_with_any_weight() -> None:
    weights = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    other = {"a": np.zeros(3, np.float32), "b": np.array([0, 0, 1e-9], np.float32)}
    assert fingerprint(weights) != fingerprint(other)
    assert fingerprint(weights) == fingerprint(dict(reversed(weights.items())))


def test_the_most_accurate_result_is_kept_whatever_the_order(run_folder: Path) -> None:
    results = [Item("a", scored(0.1, 0.97)), Item("b", scored(0.01, 0.99)), Item("c", scored(0.001, 0.95))]
    for order in itertools.permutations(results):
        (run_folder / "winner.npz").unlink(missing_ok=True)
        for item in order:
            Winner().commit([item])  # a new life each time
        assert winner_of(run_folder / "winner.npz") == 0.01


def test_the_lines_are_the_same_bytes_whatever_the_order_and_how_often(run_folder: Path) -> None:
    results = [Item("a", scored(0.1, 0.97)), Item("b", scored(0.01, 0.99)), Item("c", scored(0.001, 0.95))]
    Results().commit(results)
    expected = (run_folder / "results.jsonl").read_bytes()
    for order in itertools.permutations(results):
        (run_folder / "results.jsonl").unlink()
        for item in (*order, order[0]):
            Results().commit([item])  # a new life each time
        assert (run_folder / "results.jsonl").read_bytes() == expected
    assert [json.loads(line)["lr"] for line in expected.splitlines()] == [0.1, 0.01, 0.001]


def test_of_equally_accurate_results_the_lowest_lr_wins(run_folder: Path) -> None:
    Winner().commit([Item("a", scored(0.01, 1.0)), Item("b", scored(0.1, 1.0))])
    Winner().commit([Item("c", scored(0.001, 1.0))])
    assert winner_of(run_folder / "winner.npz") == 0.001


def test_a_result_that_comes_twice_leaves_the_same_bytes(run_folder: Path) -> None:
    Winner().commit([Item("a", scored(0.1, 0.97))])
    before = (run_folder / "winner.npz").read_bytes()
    (run_folder / "winner.npz").unlink()
    Winner().commit([Item("a", scored(0.1, 0.97))])
    Winner().commit([Item("a", scored(0.1, 0.97))])
    assert (run_folder / "winner.npz").read_bytes() == before


def test_what_a_kill_left_half_written_is_no_winner(run_folder: Path) -> None:
    (run_folder / "winner.npz.part").write_bytes(b"PK half")
    sink = Winner()
    sink.commit([Item("a", scored(0.1, 0.97))])
    sink.close()
    assert [path.name for path in run_folder.iterdir()] == ["winner.npz"]


def test_a_few_seconds_of_crops_teach_more_than_the_majority_class(seeded_crops: Crops) -> None:
    fit = Train(0.1)
    described = [features(item) for item in seeded_crops(3200)]
    for k in range(0, len(described), 64):
        group = described[k : k + 64]
        fit({name: np.stack([item[name] for item in group]) for name in ("features", "label")})
    (result,) = fit.finish()
    score = Evaluate(crops=600)(result)
    assert score["accuracy"] > score["baseline"] + 0.4
