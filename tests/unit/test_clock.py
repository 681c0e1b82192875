"""Whether the clock is right: asked of the kernel, and where a sandbox forbids that, of what timesyncd leaves behind."""

import pytest

from gateway.clock import REFUSED, TIME_ERROR, _adjtimex, synchronized

TIME_OK, TIME_WAIT = 0, 4  # TIME_WAIT: a leap second has just been


@pytest.fixture
def timesyncd(tmp_path):
    """Path of the file that timesyncd touches; not there yet."""
    return tmp_path / "synchronized"


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(("state", "right"), [(TIME_OK, True), (TIME_WAIT, True), (TIME_ERROR, False)])
def test_the_kernel_has_the_last_word_where_it_may_be_asked(timesyncd, state, right, left):
    if left:
        timesyncd.touch()
    assert synchronized(lambda: state, str(timesyncd)) is right


def test_where_it_may_not_be_asked_the_clock_is_right_once_timesyncd_has_set_it(timesyncd):
    assert not synchronized(lambda: REFUSED, str(timesyncd))
    timesyncd.touch()
    assert synchronized(lambda: REFUSED, str(timesyncd))


def test_the_kernel_of_this_machine_answers_with_one_of_its_states_or_refuses():
    assert REFUSED <= _adjtimex() <= TIME_ERROR
