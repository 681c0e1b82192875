"""Trying a pipeline out, away from the gateway: nothing is recorded, and time passes as it is told.

course      one program on its way through records and time
cases       the tests that a pipeline carries, and what a failure looks like
rerun       a pipeline over what the log holds, beside what was recorded
difference  two streams compared, in bounded memory
"""

from gateway.trial.cases import Outcome, run_case
from gateway.trial.course import Course

__all__ = ["Course", "Outcome", "run_case"]
