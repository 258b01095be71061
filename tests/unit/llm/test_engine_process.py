"""The engine process's own duties, apart from vLLM."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import psutil
from hypothesis import given
from hypothesis import strategies as st

from serve.engine_process import without_special_tokens

ROOT = Path(__file__).resolve().parents[3]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PIECES = st.sampled_from([*SPECIAL, "<|im_", "end|>", "start|>", "<|", "|>", "im_end", "user\n", " ", "x"])
READ_UNTIL_THE_INPUT_ENDS = """
import queue, subprocess, sys
from serve.engine_process import _read_commands
print(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE).pid, flush=True)
_read_commands(queue.SimpleQueue())
"""


@given(st.lists(PIECES, max_size=12).map("".join))
def test_no_control_token_survives_and_none_is_put_together(text: str) -> None:
    clean = without_special_tokens(text, SPECIAL)
    assert not any(token in clean for token in SPECIAL)


@given(st.text())
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert without_special_tokens(text, SPECIAL) == text or any(token in text for token in SPECIAL)


async def test_the_end_of_its_input_ends_it_and_what_it_started() -> None:
    """A replica that is killed closes the pipe and does nothing else; the engine must go all the same."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        READ_UNTIL_THE_INPUT_ENDS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    started = psutil.Process(int(await process.stdout.readline()))
    process.stdin.close()
    async with asyncio.timeout(30):
        assert await process.wait() == -signal.SIGKILL
        while started.is_running() and started.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.005)
