"""Redelivery against a model: what is recognised was received before, and with ids that go round everything is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import PublishPacket, QoS

from gateway.mqtt import Session
from gateway.plugin import Remembered
from gateway.record import fingerprint


def message(packet_id, value, duplicate=False):
    return PublishPacket("k", value, qos=QoS.AT_LEAST_ONCE, packet_id=packet_id, duplicate=duplicate)


def is_repeat(session, one):
    return session.is_repeat(one.packet_id, "k", one.payload, one.duplicate)


class Broker:
    """Hands out ids, keeps what is not acknowledged, sends it again."""

    def __init__(self, lowest, last=0):
        self.lowest, self.last = lowest, last
        self.flying = {}

    def send(self, value):
        self.last = self.last % 65535 + 1
        packet_id = next(n for n in range(1, 65536) if n not in self.flying) if self.lowest else self.last
        self.flying[packet_id] = value
        return packet_id


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_new_is_ever_taken_for_a_repeat_and_round_ids_let_no_repeat_through(data):
    capacity = data.draw(st.integers(1, 30))
    lowest = data.draw(st.booleans())
    window = capacity if lowest else data.draw(st.sampled_from([capacity, 3 * capacity]))  # as mosquitto does
    told = data.draw(st.sampled_from([capacity, None]))  # None: MQTT 3.1.1, where nobody can say how many
    broker = Broker(lowest, last=data.draw(st.sampled_from([0, 5, 65525])))
    session = Session(())
    recorded, sent, serial = [], [], 0
    committed = []  # what a restart would remember
    for _ in range(data.draw(st.integers(1, 6))):
        session.resumed(bool(sent), told)
        held, fate = [], []
        for packet_id, (value, number) in list(broker.flying.items()):
            held.append((message(packet_id, value, True), number))
        started = bool(held)
        for _ in range(data.draw(st.integers(0, 60))):
            while len(broker.flying) >= window:
                _acknowledge(broker, fate, held, session, recorded, committed)
                if len(broker.flying) >= window:
                    break
            if len(broker.flying) >= window:
                break
            value = data.draw(st.sampled_from([b"1", b"2"]))
            serial += 1
            packet_id = broker.send((value, serial))
            sent.append(serial)
            if data.draw(st.integers(0, 9)):
                held.append((message(packet_id, value), serial))
            else:
                break  # the connection is dead: this one was sent and never arrives
        if started or held:
            _handle(session, held, recorded, committed)
            held = []
        for packet_id in list(broker.flying)[: data.draw(st.integers(0, window))]:
            if broker.flying[packet_id][1] in recorded:
                del broker.flying[packet_id]
        if data.draw(st.integers(0, 3)) == 0:
            session = Session([Remembered(i, fingerprint("k", v)) for i, v in committed])
    arrived = set(recorded)
    missing = [n for n in sent if n not in arrived and n not in {number for _, number in broker.flying.values()}]
    assert not missing, "a message was taken for a repeat of another one"


def _acknowledge(broker, fate, held, session, recorded, committed):
    _handle(session, held, recorded, committed)
    held.clear()
    for packet_id in list(broker.flying):
        if broker.flying[packet_id][1] in recorded:
            del broker.flying[packet_id]
            return


def _handle(session, held, recorded, committed):
    """What the driver does with reads that are no longer held back."""
    messages = [one for one, _ in held]
    if not messages:
        return
    session.decide(messages, waited=True)
    proven = session.cycling
    for one, number in held:
        if is_repeat(session, one):
            assert number in recorded, "this message was never received before"
            continue
        assert not (proven and number in recorded), "this one was received before"
        recorded.append(number)
        committed.append((one.packet_id, one.payload))
    ids = [one.packet_id for one in messages]
    session.observe(ids)
    session.took(ids, ["k"] * len(ids), [one.payload for one in messages], 100)


def test_with_ids_that_go_round_every_repeat_is_recognised_after_a_new_message_shows_it():
    session = Session(())
    session.resumed(False, 2000)
    ids = list(range(1, 51))
    session.observe(ids)
    session.took(ids, ["k"] * 50, [b"%d" % n for n in ids], 1000)
    session.resumed(True, 2000)
    repeats = [message(n, b"%d" % n, True) for n in range(31, 51)]
    assert not session.decide(repeats), "held until a new message shows how the broker counts"
    assert session.decide([*repeats, message(51, b"new")])
    assert not is_repeat(session, message(31, b"other bytes", True))
    assert all(is_repeat(session, one) for one in repeats)
    assert not is_repeat(session, message(51, b"new"))
    assert not session.expecting


def test_a_broker_that_takes_the_lowest_free_id_gets_no_repeat_recognised():
    session = Session(())
    session.resumed(False, 2000)
    session.observe([1, 2, 1, 2, 1])
    session.took([1, 2, 1, 2, 1], ["k"] * 5, [b"same"] * 5, 100)
    session.resumed(True, 2000)
    assert session.decide([message(2, b"same", True), message(1, b"same")])
    assert not is_repeat(session, message(2, b"same", True))


def test_ids_above_the_receive_maximum_in_a_row_show_it_at_once_and_survive_a_restart():
    memory = [Remembered(n, fingerprint("k", b"%d" % n)) for n in range(2990, 3010)]
    session = Session(memory)
    session.resumed(True, 100)
    repeats = [message(n, b"%d" % n, True) for n in range(3000, 3010)]
    assert session.decide(repeats)
    assert all(is_repeat(session, one) for one in repeats)


def test_a_session_that_is_gone_means_that_its_ids_mean_nothing():
    session = Session([Remembered(n, fingerprint("k", b"x")) for n in range(200, 250)])
    session.resumed(False, 100)
    assert not session.expecting
    assert not is_repeat(session, message(240, b"x", True))


def test_large_payloads_are_remembered_as_fingerprints_in_bounded_memory():
    session = Session(())
    session.resumed(False, 2000)
    for n in range(1, 101):
        session.observe([n])
        session.took([n], ["k"], [bytes([n]) * 200_000], 200_000)
    assert session._size <= 2 << 20
    session.resumed(True, 2000)
    repeats = [message(n, bytes([n]) * 200_000, True) for n in range(3, 101)]
    assert session.decide([*repeats, message(101, b"new")])
    assert all(is_repeat(session, one) for one in repeats)


def received(session, sequence):
    """Messages with all the same bytes, whose ids go round."""
    for at in range(0, len(sequence), 1000):
        ids = [n % 65535 + 1 for n in sequence[at : at + 1000]]
        session.observe(ids)
        session.took(ids, ["k"] * len(ids), [b"same"] * len(ids), 10 * len(ids))


@pytest.mark.parametrize("repeats", [0, 1, 15_000])
def test_equal_readings_are_new_behind_the_newest_that_we_have_however_many_a_broker_has_under_way(repeats):
    session, count = Session(()), 100_000
    session.resumed(False, 2000)
    received(session, range(count))
    session.resumed(True, 2000)
    again = [message(n % 65535 + 1, b"same", True) for n in range(count - repeats, count + 60_000)]
    assert session.decide(again)
    found = [is_repeat(session, one) for one in again]
    assert found == [True] * repeats + [False] * 60_000


def test_repeats_that_are_cut_short_are_all_recognised_the_next_time():
    session = Session(())
    session.resumed(False, 100)
    received(session, range(5000))
    for first, last in ((4000, 4300), (4100, 4101), (4101, 5000)):
        session.resumed(True, 100)
        again = [message(n + 1, b"same", True) for n in range(first, last)]
        assert all(is_repeat(session, one) for one in again)
        received(session, range(first, last))
    assert not session.expecting


def test_a_broker_that_was_told_no_limit_must_show_ids_beyond_all_that_can_be_under_way():
    memory = [Remembered(n, fingerprint("k", b"x")) for n in range(15_000, 16_380)]
    session = Session(memory)
    session.resumed(True, None)
    repeats = [message(n, b"x", True) for n in range(16_300, 16_380)]
    assert not session.decide(repeats), "so many may be under way, and the ids the lowest free ones"
    session = Session([*memory, *[Remembered(n, fingerprint("k", b"x")) for n in range(16_380, 16_400)]])
    session.resumed(True, None)
    assert session.decide(repeats)
    assert all(is_repeat(session, one) for one in repeats)
