"""What the benchmark puts inside the processes of a run, by what is in the environment.

BENCH_FRAME_ITEMS is how many items share a frame at most.  With BENCH_UNGUARDED nothing is kept until it is
acknowledged, nothing is known again, and nobody notes what is called: what is left are frames and credit.
"""

import os
import sys
from dataclasses import fields

if not {"zpipe.processes.forkserver", "zpipe.processes.worker"}.isdisjoint(sys.orig_argv):
    from zpipe.core.ledger import Ledger, Record
    from zpipe.core.limits import Limits
    from zpipe.core.outlet import Outlet
    from zpipe.core.worker import Worker
    from zpipe.processes.blame import Blame

    class Forgetful(Outlet):
        """Takes what it has sent for settled."""

        def _put(self, link, out):
            super()._put(link, out)
            self._settle(link, link.sent - out.run.n + 1, out)

    class Trusting(Ledger):
        """Knows nothing that has come before."""

        def arrived(self, address, run):
            self.queue.append(Record(self, address, run))
            self.queued_items += run.n

        def settled(self, record):
            for address in record.addresses:
                address.settle()

    def silent(self, run, index):
        """Note nothing."""

    if "BENCH_FRAME_ITEMS" in os.environ:
        defaults = {field.name: field.default for field in fields(Limits)}
        defaults["frame_items"] = int(os.environ["BENCH_FRAME_ITEMS"])
        Limits.__init__.__defaults__ = tuple(defaults.values())
    if "BENCH_UNGUARDED" in os.environ:
        Worker.outlet_type, Worker.ledger_type, Blame.note = Forgetful, Trusting, silent
