"""How many requests of a kind are let in at once, learnt from how those before them ended.

A request that the models refuse for lack of time has cost its whole way to them and back, body and all; under five
times too much load there is time for nothing else. So the door learns how many find room: one more for each round of
answers, a tenth fewer when one is refused (additive increase, multiplicative decrease: Chiu and Jain 1989).
"""

import time
from dataclasses import dataclass

LEAST = 16  # that are always let in: enough for a batch while another is worked on
SHRINK = 0.9
_PAUSE_SECONDS = 0.25  # between two steps down: refusals come in groups


@dataclass
class _Line:
    limit: float
    inside: int = 0
    shrunk: float = 0.0


class Pressure:
    """Counts the requests of each kind that are inside, and bounds them.

    Args:
        most: of one kind, where nothing was refused.
    """

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._lines: dict[str, _Line] = {}

    def enter(self, kind: str) -> bool:
        """Whether there is room for one more, which then is inside until it leaves."""
        line = self._lines.setdefault(kind, _Line(self._most))
        if line.inside >= line.limit:
            return False
        line.inside += 1
        return True

    def leave(self, kind: str, refused: bool) -> None:
        """One that was inside is over; `refused`: for lack of time or room, not for what it was."""
        line = self._lines[kind]
        now = time.monotonic()
        if not refused:
            line.limit = min(self._most, line.limit + 1 / line.limit)
        elif now - line.shrunk > _PAUSE_SECONDS:
            line.limit, line.shrunk = min(self._most, max(LEAST, SHRINK * min(line.limit, line.inside))), now
        line.inside -= 1
        if not line.inside and line.limit >= self._most:
            del self._lines[kind]  # kinds are as callers name them: nothing is kept of those that are as any
