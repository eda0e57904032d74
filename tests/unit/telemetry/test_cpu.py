"""The share of a core that a process uses."""

import time

from tollway.telemetry.cpu import CpuShare


def test_a_busy_process_uses_its_core_and_a_waiting_one_does_not() -> None:
    """The share is what was used over the time between readings; asked at once again, it is the same."""
    share = CpuShare()
    assert share.read() == 0.0
    deadline, began_s = time.monotonic() + 1.1, time.process_time()
    while time.monotonic() < deadline:
        pass
    used_s = time.process_time() - began_s
    found = share.read()
    assert used_s / 2 <= found <= used_s * 1.1
    assert share.read() == found
