"""TCP ports for the servers of tests, from below those that the system hands to clients by itself.

A port that was free a moment ago may be some client's by the time a server binds it when both are chosen from the
same range, and several test processes connect all the time.
"""

import random
import socket

FIRST, LAST = 15_000, 29_999


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago and that no client will be given."""
    choose = random.SystemRandom()  # forked or seeded alike, two processes would choose alike
    while True:
        port = choose.randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
