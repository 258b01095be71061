"""The engine as a Serve replica: which profile it runs, where its files are, how its weights are made."""

from __future__ import annotations

import sys
from typing import Literal

from actors.logs import configure_logs
from serve.engine import Engine
from serve.engine_profile import cpu_flags, cpu_profile, gpu_profile
from serve.loopback import listen_on_loopback
from serve.settings import Settings


class EngineReplica(Engine):
    """`cpu` runs the packaged model, converted once into the cache; `gpu` the operator's own."""

    def __init__(self, llm: Literal["cpu", "gpu"]) -> None:
        configure_logs()
        settings = Settings()
        if settings.loopback_only:
            listen_on_loopback()
        work_dir = settings.data_dir / "engine"
        work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if llm == "gpu":
            super().__init__(gpu_profile(settings.llm_model), work_dir)
        else:
            prepare = (sys.executable, "-m", "cluster.weights", str(settings.caches))
            super().__init__(cpu_profile(cpu_flags()), work_dir, prepare)
