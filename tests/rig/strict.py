"""A broker that keeps its word to the letter: an exact in-flight window, packet ids by a rule of your choice, and hostile bytes on request.

mosquitto 2.0 lets more than its window out when it is acknowledged in order, so windows can only be told from each other here.
"""

import asyncio
import contextlib

import mqtt5


class StrictBroker:
    """One subscriber, one session that outlives its connections. `ids`: "cycle" counts on, "lowest" takes the lowest free id.

    `overrun`: as mosquitto 2.0, each acknowledgement lets a whole window of what waits out, whatever is under way.
    """

    def __init__(self, window=20, ids="cycle", granted=1, overrun=False):
        self.window, self.ids, self.granted, self.overrun = window, ids, granted, overrun
        self.port = 0
        self.queue = []
        self.flying = {}  # id -> (topic, payload), in order of sending
        self.acks = []  # (connection, id, reason code)
        self.others = []  # every other packet a client sent
        self.connections = 0
        self.session = False
        self.held = False  # True: nothing new is sent
        self._last = 0
        self._writer = None
        self._writers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.02)  # for asyncio to close them

    def publish(self, messages):
        self.queue += messages
        self._pump()

    def cut(self):
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    def raw(self, data):
        self._writer.write(data)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        number, buffer = self.connections, b""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                buffer += data
                with contextlib.suppress(IndexError):
                    while buffer:
                        packet, used = mqtt5.read(memoryview(buffer))
                        buffer = buffer[used:]
                        self._handle(packet, number, writer)
        writer.close()

    def _handle(self, packet, number, writer):
        if isinstance(packet, mqtt5.ConnectPacket):
            self._writer = writer
            writer.write(mqtt5.ConnAckPacket(session_present=self.session).write())
            for packet_id, message in self.flying.items():
                writer.write(self._encode(packet_id, message, duplicate=True))
            if self.session:
                self._pump()
        elif isinstance(packet, mqtt5.SubscribePacket):
            self.session = True
            code = mqtt5.SubAckReasonCode(self.granted)
            writer.write(mqtt5.SubAckPacket(packet.packet_id, [code] * len(packet.topic_filters)).write())
            self._pump()
        elif isinstance(packet, mqtt5.PubAckPacket):
            self.acks.append((number, packet.packet_id, int(packet.reason_code)))
            self.flying.pop(packet.packet_id, None)
            self._pump(self.window if self.overrun else 0)
        elif isinstance(packet, mqtt5.PingReqPacket):
            writer.write(mqtt5.PingRespPacket().write())
        else:
            self.others.append(packet)

    def _pump(self, more=0):
        window = max(self.window, len(self.flying) + more)
        while self.queue and len(self.flying) < window and self._writer is not None and self.session and not self.held:
            message = self.queue.pop(0)
            packet_id = self._last % 65535 + 1
            if self.ids == "lowest":
                packet_id = next(n for n in range(1, 65536) if n not in self.flying)
            self._last = packet_id
            self.flying[packet_id] = message
            self._writer.write(self._encode(packet_id, message))

    @staticmethod
    def _encode(packet_id, message, duplicate=False):
        topic, payload = message
        return mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id, duplicate=duplicate
        ).write()
