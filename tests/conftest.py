"""What all tests share: no example of hypothesis has a deadline, for a slow machine is not a fault."""

import signal

from hypothesis import Phase, settings

settings.register_profile("zpipe", deadline=None)
settings.register_profile("mutation", deadline=None, database=None, phases=[Phase.generate])  # a failure is enough
settings.load_profile("zpipe")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's `&` sets it: what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
