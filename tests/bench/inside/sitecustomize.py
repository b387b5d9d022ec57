"""What the benchmark puts inside the processes of a run: BENCH_FRAME_ITEMS is how many items share a frame at most."""

import os
import sys
from dataclasses import fields

if not {"zpipe.processes.forkserver", "zpipe.processes.worker"}.isdisjoint(sys.orig_argv):
    from zpipe.core.limits import Limits

    defaults = {field.name: field.default for field in fields(Limits)}
    defaults["frame_items"] = int(os.environ["BENCH_FRAME_ITEMS"])
    Limits.__init__.__defaults__ = tuple(defaults.values())
