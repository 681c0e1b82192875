"""The load of every benchmark: a seeded generator of 54-byte readings on 200 topics, and the arithmetic of a run.

usage: load.py PORT COUNT RATE    publishes at QoS 1 (RATE 0: as fast as the broker confirms)
"""

import random
import sys
import time

from gateway.testing import publish

KEYS = 200


def readings(count: int, seed: int = 1, start: float = 1_790_000_000.0, rate: float = 1000.0):
    """(topic, payload) pairs: a random walk per sensor, about 54 bytes of JSON, topics of 37 characters."""
    rng = random.Random(seed)
    topics = [f"plant/7/line/{k % 5}/sensor/{k:03d}/temperature" for k in range(KEYS)]
    values = [20.0 + rng.random() * 5 for _ in range(KEYS)]
    for sequence in range(count):
        k = rng.randrange(KEYS)
        values[k] += rng.uniform(-0.1, 0.1)
        at = start + sequence / rate
        yield topics[k], b'{"ts":%.3f,"v":%.2f,"unit":"C","seq":%d}' % (at, values[k], sequence)


if __name__ == "__main__":
    port, count, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    messages = readings(count, start=time.time(), rate=rate or 50_000.0)
    publish(port, messages if rate else list(messages), rate or None)
