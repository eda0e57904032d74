"""SIGTERM in the middle of work."""

import asyncio
import signal

from stack import Start, alive, start


async def test_sigterm_under_load_loses_and_leaves_nothing(up: Start) -> None:
    """P1, P2: exit 0, every process gone; what was handed back or still queued is done, once, by the next start."""
    async with up(workers=2, latency_s=0.4, grace_s=1) as stack:
        accepted = [await stack.submit("patient", f"{stack.began.hex[:12]}-{number}") for number in range(60)]

        async def busy() -> bool:
            async with stack.record() as record:
                return bool(await record.fetchval("select count(*) from step where run_id >= $1", stack.began) > 20)

        await stack.until("runs are under way", busy)
        processes = stack.everything()
        assert len(processes) > 8
        assert await stack.stop() == 0
        assert not [pid for pid in processes if alive(pid)]
        again = start(stack.folder, stack.data_dir, stack.sim_port, stack.workers)
        again.began, again.providers = stack.began, stack.providers
        try:
            await again.until_ready()
            await again.history_without_faults(accepted)
        finally:
            again.up.send_signal(signal.SIGTERM)
            await asyncio.to_thread(again.up.wait, 60)
