from hypothesis import given
from hypothesis import strategies as st

from gateway.log import Positions
from gateway.record import Extent, Gap


@given(st.lists(st.integers(1, 6), max_size=30), st.randoms(use_true_random=False), st.sets(st.integers(0, 29)))
def test_whatever_the_order_of_receipts_the_prefix_is_the_first_offset_not_finished(lengths, rnd, gaps):
    positions, at, pieces = Positions(), 0, []
    positions.start("r", "s", 0)
    for i, length in enumerate(lengths):
        if i in gaps:
            pieces.append(Gap("s", at, at + length - 1, "evicted"))
        else:
            pieces.append(Extent("s", at, at + length - 1))
            positions.cut("r", pieces[-1])
        at += length
    rnd.shuffle(pieces)
    unfinished = set(range(at))
    open_cuts = {piece for piece in pieces if isinstance(piece, Extent)}
    for piece in pieces:
        if isinstance(piece, Gap):
            positions.skip("r", piece)
        else:
            positions.settle("r", piece)
            open_cuts.discard(piece)
        unfinished -= set(range(piece.first, piece.last + 1))
        assert positions.where("r", "s") == min(unfinished, default=at)
        assert positions.outstanding("r") == sorted(open_cuts)
        (place,) = positions.take()
        again = Positions()
        again.restore(place)
        assert again.where("r", "s") == positions.where("r", "s")
        assert again.cut_next("r", "s") == positions.cut_next("r", "s")
