"""The exit codes of zpipe's processes: those of commands, and those that a worker tells its supervisor."""

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_DEAD_LETTERS = 0, 1, 2, 3
EXIT_FENCED, EXIT_DRAINED = 75, 76  # a later life, or another worker, has its place; it was told to leave
EXIT_INTERRUPTED = 130
