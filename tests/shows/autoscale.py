"""A show of a stage that finds by itself how many workers it needs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.real import lines
from tests.shows.flow import Shown, chain, ended, stage_place
from tests.shows.scale import rate

PACE_S, TRICKLE_S = 0.00178, 0.1  # 2.8 workers' worth of items of 5 ms, and a twentieth of one
SPELL_S = 20.0
FOUND_S = 15.0  # until the third worker is there
SEEN_S = 3.0  # after a decision, to see what it has brought


def autoscale() -> Iterator[Shown]:
    """`workers = "1..4"`: 1 -> 3 by itself when three workers' worth of items come, and back when a trickle comes."""
    spells = f"args = {{ spells = [[{PACE_S}, {SPELL_S}], [{TRICKLE_S}, {SPELL_S}]] }}"
    with stage_place() as place:
        stages = chain("paced", "nap", sink="out.jsonl", paced=spells, nap='workers = "1..4"')
        done = ended(place.run("run", place.pipeline(stages)))
        found = lines(done.folder / "out.jsonl")
        events = lines(done.folder / "events.jsonl")
        made = json.loads((done.folder / "report.json").read_text())["stages"][0]["out"]
    unix_s = time.time() - time.monotonic()
    ends = sorted(item["ended_s"] + unix_s for item in found)
    joined = {event["worker"]: event["t"] for event in events if event["kind"] == "joined"}
    scaled = [event for event in events if event["kind"] == "scaled"]
    for event in scaled:
        at_s = event["t"] - joined["nap-1"]
        rates = f"{rate(ends, event['t'] - 1.0):.0f} a second, and {rate(ends, event['t'] + SEEN_S):.0f} after"
        yield Shown(f"{event['text']} after {at_s:.1f} s: {rates} {SEEN_S:.0f} s more", True)
    counts = [1, *(event["data"]["after"] for event in scaled)]
    yield Shown(f"workers: {' -> '.join(map(str, counts))}", counts in ([1, 2, 3, 1], [1, 2, 3, 2, 1]))
    late_s = joined.get("nap-3", float("inf")) - joined["nap-1"]
    yield Shown(f"the third is there after {late_s:.1f} s (at most {FOUND_S:.0f})", late_s <= FOUND_S)
    exact = sorted(item["k"] for item in found) == list(range(made))
    yield Shown(f"{len(found)} items, {'each once' if exact else 'NOT each once'}", exact)
