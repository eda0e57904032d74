"""What was used of a route in the last minute, in cells of a second. Pure: times are monotonic seconds."""

from tollway.hotstate.capacity import Vector

WINDOW_S = 60


class Meter:
    """A ring of seconds. What is corrected later counts in the second of the correction."""

    __slots__ = ("_cells", "_seconds")

    def __init__(self) -> None:
        self._cells = [[0.0, 0.0, 0.0, 0.0] for _ in range(WINDOW_S)]
        self._seconds = [-1] * WINDOW_S

    def add(self, charge: Vector, now: float, times: int = 1) -> None:
        """Something was used; with -1 it was not after all."""
        second = int(now)
        at = second % WINDOW_S
        cell = self._cells[at]
        if self._seconds[at] != second:
            self._seconds[at] = second
            cell[0] = cell[1] = cell[2] = cell[3] = 0.0
        cell[0] += charge[0] * times
        cell[1] += charge[1] * times
        cell[2] += charge[2] * times
        cell[3] += charge[3] * times

    def used(self, now: float) -> Vector:
        """What was used in the minute before `now`."""
        first = int(now) - WINDOW_S + 1
        total = [0.0, 0.0, 0.0, 0.0]
        for second, cell in zip(self._seconds, self._cells, strict=True):
            if second >= first:
                for at, value in enumerate(cell):
                    total[at] += value
        return (max(0.0, total[0]), max(0.0, total[1]), max(0.0, total[2]), max(0.0, total[3]))
