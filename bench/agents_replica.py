"""The replica of `bench.agents`: the Control API alone under uvicorn; prints its port."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys

import uvicorn
from fastapi import FastAPI

from actors.metrics import Metrics
from detect.record import TenantId
from serve.auth import Authenticator, authenticator_on
from serve.control.agent_door import AgentAuthenticator
from serve.control.opening import ControlParts, open_control
from serve.settings import Settings
from serve.signing_services import signing_keyring
from store.nonces import NonceStore
from store.postgres import connect_pool


async def main() -> None:
    """Serves until it is told to end."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = Settings()
    app = await connect_pool(settings.app_dsn.get_secret_value(), name="edge", max_size=8)
    writer = await connect_pool(settings.writer_dsn.get_secret_value(), name="edge journal", max_size=4)

    authenticator = authenticator_on(app, None, settings.key_cache_s, Authenticator)
    agents = authenticator_on(app, None, settings.key_cache_s, AgentAuthenticator)
    keyring = signing_keyring(settings, app)

    async def enforce_rules(tenant: TenantId) -> None:
        """No tenant of this measurement masks."""

    parts = ControlParts(app, writer, authenticator, agents, NonceStore(writer), keyring, Metrics(), enforce_rules)
    application = FastAPI()
    bound = socket.create_server(("127.0.0.1", 0), backlog=4096)
    async with open_control(settings, parts) as control:
        control.add_to(application)
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        sys.stdout.write(f"{bound.getsockname()[1]}\n")
        sys.stdout.flush()
        await uvicorn.Server(config).serve([bound])


if __name__ == "__main__":
    asyncio.run(main())
