"""What a relay costs through zpipe, beside plain sockets and queues: `python -m tests.bench`."""
