"""The machine of states: links, credit, ledger, order, ending.  No sockets, no clock, no randomness."""
