"""Whether the language model can run: one sentence a person can act on, for each kind of machine."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.llm_setup import Machine, llm_support, machine_support, this_machine
from serve.engine_profile import cpu_flags, cpu_profile, gpu_profile

ROOT = Path(__file__).resolve().parents[3]
GOOD = Machine("Linux", "x86_64", frozenset({"sse2", "avx2"}), 8 * 1024**3)


def test_a_plain_linux_machine_will_do() -> None:
    assert machine_support(GOOD).usable


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": "Darwin", "architecture": "arm64"}, "Linux on x86-64, this is Darwin on arm64"),
        ({"architecture": "aarch64"}, "this is Linux on aarch64"),
        ({"flags": frozenset({"sse2", "avx"})}, "AVX2"),
        ({"flags": frozenset()}, "AVX2"),
        ({"memory_bytes": 5 * 1024**3}, "needs 6 GiB of available memory, here are 5.0 GiB"),
    ],
)
def test_a_machine_that_cannot_is_told_why(change: dict[str, object], words: str) -> None:
    support = llm_support(dataclasses.replace(GOOD, **change))  # type: ignore[arg-type]  # one field at a time
    assert not support.usable
    assert words in support.reason


def test_this_machine_is_looked_at_without_loading_the_engine() -> None:
    code = (
        "import sys; from cluster.llm_setup import llm_support; llm_support();print({'torch', 'vllm'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert this_machine().memory_bytes > 0


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "avx512_bf16"}
    assert cpu_flags(tmp_path / "nothing") == frozenset()


def test_half_precision_is_used_only_where_the_processor_has_it() -> None:
    assert cpu_profile(frozenset({"avx2"})).engine_args["dtype"] == "float32"
    assert cpu_profile(frozenset({"avx512f", "avx512_bf16"})).engine_args["dtype"] == "bfloat16"


@pytest.mark.parametrize("profile", [cpu_profile(frozenset()), gpu_profile("/models/large")])
def test_every_profile_is_offline_quiet_compact_and_bounded(profile: object) -> None:
    from serve.engine_profile import EngineProfile

    assert isinstance(profile, EngineProfile)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        assert profile.environment[name] == "1"
    assert profile.engine_args["structured_outputs_config"] == {"backend": "xgrammar", "disable_any_whitespace": True}
    assert profile.engine_args["max_num_seqs"] >= profile.concurrency
    assert profile.max_waiting > 0
