"""What eight workloads cost through zpipe, beside plain sockets and queues: `python -m tests.bench`."""
