"""Limits of a stream that are smaller than what is written at once."""

from shaped import HandClock

from gateway.log import Keep, Log, LogOptions


def test_a_limit_below_one_block_does_not_forget_what_was_sealed_a_moment_ago(tmp_path):
    log = Log(LogOptions(path=str(tmp_path / "log"), seal=1_000), HandClock())
    log.open()
    log.declare("s", Keep(size=100, age_s=None))
    for _ in range(5):
        log.append("s", [1] * 1_000, ["k"] * 1_000, [b"%d" % n for n in range(1_000)])
        commit = log.gather()
        log.write(commit)
        log.committed(commit)
        while log.maintenance_due and (done := log.maintain()) is not None:
            log.maintained(done)
    assert log.oldest("s") == 4_000
    assert log.next("s") == 5_000
    log.close()
