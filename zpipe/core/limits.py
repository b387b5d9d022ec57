"""Every limit of the data plane and of the registry, with its name and its default."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one worker.  Counts are items, sizes bytes, times seconds."""

    frame_items: int = 256  # most items in one frame
    frame_bytes: int = 512 * 1024  # a frame is sent when its items reach this
    frame_s: float = 0.005  # or when its first item has waited this long
    window_max: int = 32768  # most unconsumed items on a link
    commit_items: int = 256  # items that a sink's commit may cover
    flight_s: float = 0.01  # work that a link holds ready at its receiver, or the round trip's worth if that is more
    flight_max_s: float = 0.02  # and at most, however long the round trip
    budget_bytes: int = 48 * 1024 * 1024  # unconsumed bytes of a worker, divided among its upstream workers
    held_bytes: int = 96 * 1024 * 1024  # unsettled or parked bytes of a worker beyond which sources make nothing new,
    held_items: int = 4  # unless it holds no more than so many items for each link
    source_items: int = 4096  # most unsettled positions of a partition
    stacked_items: int = 32768  # and where a source makes them by the array
    source_bytes: int = 64 * 1024 * 1024  # most unsettled bytes of a source worker
    ack_s: float = 0.002  # under load acks go out this often,
    rest_s: float = 0.01  # this often where nobody above is short of credit or waits for them,
    ack_frames: int = 64  # or after this many frames
    sync_s: float = 0.1  # a link with something unsettled is probed this often
    dial_s: float = 2.0  # a link that has no credit by then is dialled anew
    redial_s: float = 0.1  # pause before that, doubling to dial_s
    ack_ranges: int = 4096  # most ranges in one ack
    recent: int = 1024  # settled runs that a worker remembers


@dataclass(frozen=True)
class RegistryLimits:
    """How long the registry is patient, in seconds."""

    suspect_s: float = 5.0  # a worker this long silent is marked
    silent_s: float = 1.25  # and this long silent, a beat is missing: whether its connection lives is tried out
    cut_s: float = 0.3  # one that has lost its connection has this long to come back
    return_s: float = 5.0  # and this long when it was the registry that had been away
    recover_s: float = 2.0  # after a restart nothing is decided for this long while known workers are not back
    fail_s: float = 2.0  # for workers to leave a failed run
    store_s: float = 1.0  # the counters of a worker are stored no oftener
    mesh_peers: int = 32  # a worker is linked to at least so many at each other end of its edges, or to all
    roster_peers: int = 32  # a longer roster is told again no sooner than
    roster_peer_s: float = 0.004  # so long for each peer, or with the answer to a beat: many may join at once
