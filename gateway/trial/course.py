"""One program on its way through records and time. The clock stands still but where it is told to go on."""

from gateway.plugin import Outputs, Program
from gateway.record import Batch


class Course:
    """What the house does for a program, without the house: every record in order, a tick wherever one is due."""

    def __init__(self, program: Program, out: Outputs) -> None:
        self.program, self.out = program, out
        self.ticks: list[int] = []  # when time passed by itself

    def run(self, batch: Batch) -> None:
        """Let time pass until the first record arrives, then run them all."""
        if len(batch):
            self.wait(batch.times[0])
            self.program.run(batch, self.out)

    def wait(self, until: int, most: int | None = None) -> bool:
        """Let time pass up to `until` (ns), acting at each moment that is due, at `most` so many of them.

        Returns whether anything that is due by then is left.
        """
        done = 0
        while (due := self.program.due()) is not None and due <= until:
            if done == most:
                return True
            done += 1
            self.ticks.append(due)
            self.program.tick(due, self.out)
            if self.program.due() == due:  # a tick that moved nothing would be due for ever
                break
        return False
