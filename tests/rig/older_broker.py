"""amqtt, a broker that knows MQTT 3.1.1 and nothing else: `python older_broker.py PORT WEBSOCKET_PORT`, or as `with OlderBroker():`.

Its sessions live in its memory. What it has sent and not heard an acknowledgement of it forgets when the connection ends,
or after five seconds (amqtt 0.12, ProtocolHandler._handle_qos1_message_flow).
"""

import asyncio
import subprocess
import sys
from pathlib import Path

from gateway.testing import free_port, wait_for_port


class OlderBroker:
    """In a process of its own; `log` is what it says."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.ws_port = free_port(), free_port()
        self.log = folder / "amqtt.log"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "OlderBroker":
        with self.log.open("ab") as log:
            words = [sys.executable, __file__, str(self.port), str(self.ws_port)]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        wait_for_port(self.port)
        wait_for_port(self.ws_port)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait(30)


async def serve(port: int, ws_port: int) -> None:
    from amqtt.broker import Broker

    listeners = {
        "default": {"type": "tcp", "bind": f"127.0.0.1:{port}"},
        "web": {"type": "ws", "bind": f"127.0.0.1:{ws_port}"},
    }
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    await Broker({"listeners": listeners, "plugins": plugins}).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
