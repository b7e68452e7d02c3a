"""The service as a process. Settings that it can't do without go into the arguments of `run`."""

import signal

from .chassis.process import PACKAGE, run
from .chassis.service import connect


async def test_service_runs_as_a_module() -> None:
    async with run("-m", PACKAGE, APP_ADMIN_PORT="0", APP_DRAIN_SECONDS="0", APP_COMMIT="c0ffee") as process:
        async with connect((await process.line("listening"))["admin_port"]) as admin:
            info = (await admin.get("/info")).json()
        assert (info["name"], info["commit"]) == (PACKAGE.replace("_", "-"), "c0ffee")
        process.send(signal.SIGTERM)
        assert await process.end() == (0, "")
