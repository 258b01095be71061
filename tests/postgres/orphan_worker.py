"""A worker in a process of its own, for tests that stop and continue it: `python -m tests.postgres.orphan_worker`.

Reads {"plan": …, "detector": DSN, "writer": DSN} from standard input; says `running` and, at its end, its state.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from actors.detector import DetectorDsns, ShardPlan, ShardWorker
from actors.logs import configure_logs


async def main() -> None:
    configure_logs()  # to standard error
    asked = json.loads(sys.stdin.readline())
    plan = ShardPlan(**{**asked["plan"], "actors": tuple(asked["plan"]["actors"])})
    worker = ShardWorker(plan, DetectorDsns(asked["detector"], asked["writer"]), time.time)
    work = asyncio.create_task(worker.run())
    while worker.report.state == "starting":
        await asyncio.sleep(0.01)
    sys.stdout.write("running\n")
    sys.stdout.flush()
    await work
    sys.stdout.write(f"{worker.report.state}\n")


if __name__ == "__main__":
    asyncio.run(main())
