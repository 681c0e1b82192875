from gateway.log import Place, Positions
from gateway.log.position import Ledger
from gateway.record import Extent, Gap


def test_the_prefix_waits_for_the_cut_before_it():
    positions = Positions()
    positions.start("cloud", "s", 10)
    first, second = Extent("s", 10, 19), Extent("s", 20, 29)
    positions.cut("cloud", first)
    positions.cut("cloud", second)
    positions.settle("cloud", second)
    assert positions.where("cloud", "s") == 10
    assert positions.outstanding("cloud") == [first]
    assert positions.cut_next("cloud", "s") == 30
    positions.settle("cloud", first)
    assert positions.where("cloud", "s") == 30
    assert positions.outstanding("cloud") == []


def test_a_settled_range_is_never_cut_again_while_an_earlier_cut_is_under_way():
    positions = Positions()
    positions.start("cloud", "s", 0)
    positions.cut("cloud", Extent("s", 0, 4))
    positions.cut("cloud", Extent("s", 5, 9))
    positions.settle("cloud", Extent("s", 5, 9))
    assert positions.cut_next("cloud", "s") == 10


def test_a_gap_counts_as_read_at_the_prefix_and_beyond_it():
    positions = Positions()
    positions.start("cloud", "s", 0)
    positions.skip("cloud", Gap("s", 0, 9, "evicted"))
    assert positions.where("cloud", "s") == 10
    positions.cut("cloud", Extent("s", 10, 14))
    positions.skip("cloud", Gap("s", 15, 19, "damaged"))
    assert positions.where("cloud", "s") == 10
    assert positions.cut_next("cloud", "s") == 20
    positions.settle("cloud", Extent("s", 10, 14))
    assert positions.where("cloud", "s") == 20


def test_only_what_changed_is_taken_and_it_is_the_whole_state():
    positions = Positions()
    positions.start("a", "s", 0)
    positions.start("b", "s", 5)
    assert positions.take() == [Place("a", "s", 0, ledger=Ledger(0)), Place("b", "s", 5, ledger=Ledger(5))]
    assert not positions.dirty
    positions.cut("a", Extent("s", 0, 3))
    positions.cut("a", Extent("s", 4, 7))
    positions.settle("a", Extent("s", 4, 7))
    (place,) = positions.take()
    assert place == Place("a", "s", 0, ((4, 7),), ((0, 3),), Ledger(0, delivered=4))
    again = Positions()
    again.restore(place)
    assert again.outstanding("a") == [Extent("s", 0, 3)]
    again.settle("a", Extent("s", 0, 3))
    assert again.readers() == {"a": {"s": 8}}


def test_moving_is_forward_only_and_starting_again_goes_anywhere():
    positions = Positions()
    assert positions.where("p", "s") is None
    positions.move("p", "s", 7)
    positions.move("p", "s", 3)
    assert positions.where("p", "s") == 7
    positions.start("p", "s", 2)
    assert positions.where("p", "s") == 2
