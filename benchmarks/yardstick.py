"""The yardstick: what a capable user would write instead of a gateway, for ratios in the same run.

paho-mqtt in, one SQLite row per reading, batches of 500 out. Four commits a second with synchronous=FULL, rows deleted when
the far broker confirmed their batch; but acknowledged to the near broker before the commit, so it may lose what it read.

usage: yardstick.py NEAR_PORT FAR_PORT FOLDER
"""

import sqlite3
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt

near, far, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
arrived: list[tuple[float, str, bytes]] = []
lock = threading.Lock()
table = "CREATE TABLE IF NOT EXISTS reading(id INTEGER PRIMARY KEY, at REAL, topic TEXT, payload BLOB)"
database = sqlite3.connect(folder / "yardstick.db")
database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {table}")


def on_message(client, userdata, message) -> None:
    with lock:
        arrived.append((time.time(), message.topic, message.payload))


source = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "yardstick-in", clean_session=False)
source.on_connect = lambda client, *rest: client.subscribe("plant/#", 1)
source.on_message = on_message
source.connect("127.0.0.1", near)
source.loop_start()
target = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "yardstick-out")
target.connect("127.0.0.1", far)
target.loop_start()

while True:
    time.sleep(0.25)
    with lock:
        batch, arrived = arrived, []
    if batch:
        with database:
            database.executemany("INSERT INTO reading(at, topic, payload) VALUES(?, ?, ?)", batch)
    while rows := database.execute("SELECT id, payload FROM reading ORDER BY id LIMIT 500").fetchall():
        target.publish("out/yardstick", b"\n".join(payload for _, payload in rows), qos=1).wait_for_publish(30)
        with database:
            database.execute("DELETE FROM reading WHERE id <= ?", (rows[-1][0],))
