"""What the engine process is told: model, limits, vLLM's arguments and the environment it starts with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CPU_MODEL = "SmolLM2-135M-Instruct"
_MEBIBYTE = 1024 * 1024

# Compact JSON has to be set here: vLLM accepts the request field of the same name and ignores it, and a small model
# that may write whitespace fills its answer with it.
_STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}

# vLLM and torch read these while they are imported, so they belong to the process's first environment.
_QUIET_AND_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "",
    # The engine already has a process to itself; without this vLLM starts two more, each with its own torch.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


@dataclass(frozen=True)
class EngineProfile:
    """One way of running the engine. Sizes are tokens and requests, times are seconds.

    ``niceness`` is added to the engine process's own. ``max_waiting`` requests may wait for one of the ``concurrency``
    slots; one more is turned away at once. A process that dies is started again after ``restart_backoff_s`` doubled
    each time, ``max_restarts`` times; ``stable_s`` seconds of readiness forgive earlier deaths.
    """

    name: Literal["cpu", "gpu"]
    model: str
    concurrency: int
    niceness: int
    engine_args: dict[str, Any]
    environment: dict[str, str]
    max_waiting: int = 8
    start_timeout_s: float = 300.0
    abort_grace_s: float = 30.0
    max_restarts: int = 5
    restart_backoff_s: float = 2.0
    stable_s: float = 600.0
    warm_up: bool = True


def cpu_profile(cpu_flags: frozenset[str]) -> EngineProfile:
    """The packaged tiny model on one thread at low priority: it must never slow ingest or detection.

    ``cpu_flags`` are those of ``/proc/cpuinfo``. Without AVX-512 bf16 instructions, half precision falls back to
    kernels that read a prompt six times more slowly than float32 does.
    """
    return EngineProfile(
        name="cpu",
        model=CPU_MODEL,
        concurrency=1,
        niceness=15,
        engine_args={
            "dtype": "bfloat16" if "avx512_bf16" in cpu_flags else "float32",
            "max_model_len": 2048,
            "max_num_seqs": 1,
            "enforce_eager": True,  # compiling would add minutes to the start
            "kv_cache_memory_bytes": 256 * _MEBIBYTE,  # 5000 tokens or more: two prompts and what they share
            **_common_arguments(),
        },
        environment={
            **_QUIET_AND_OFFLINE,
            # One unbound thread: bound threads fight over shared cores and lose most of their speed there.
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        },
    )


def gpu_profile(model: str) -> EngineProfile:
    """The operator's own vLLM build and model (a folder or a name in its offline cache).

    The same code drives it, with other arguments. It has not been run on a GPU: no GPU was at hand.
    """
    return EngineProfile(
        name="gpu",
        model=model,
        concurrency=16,
        niceness=0,
        engine_args={
            "dtype": "auto",
            "max_model_len": 8192,
            "max_num_seqs": 16,
            "gpu_memory_utilization": 0.85,
            **_common_arguments(),
        },
        environment=dict(_QUIET_AND_OFFLINE),
        max_waiting=64,
        start_timeout_s=900.0,
    )


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets of the first processor; empty where ``/proc/cpuinfo`` does not list them."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _common_arguments() -> dict[str, Any]:
    return {
        "seed": 0,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "generation_config": "vllm",  # sampling is ours to choose, not the model folder's
        "structured_outputs_config": dict(_STRUCTURED_OUTPUTS),
    }
