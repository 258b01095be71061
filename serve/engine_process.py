"""The process that holds vLLM: ``python -m serve.engine_process``, a child of ``serve.engine.Engine``.

It speaks one JSON object a line. The first line in is the start-up message (``model_path``, ``engine_args``,
``niceness``, ``warm_up``); then requests (``generate``, ``abort``). Lines out: ``ready``, ``result``, ``refused``,
``aborted``, ``failed``. What vLLM prints goes to standard error. When its input ends, because the parent closed it or
died, the process ends itself and whatever it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any, NoReturn

Message = dict[str, Any]

_OUT_OF_MEMORY_SCORE = "800"  # if memory runs out, the kernel should take this process and not the database
_WARM_UP_SCHEMA = {
    "type": "object",
    "properties": {"ready": {"enum": ["yes"]}},
    "required": ["ready"],
    "additionalProperties": False,
}


class VllmSession:
    """vLLM's synchronous engine and the requests in it. Not thread-safe: one thread submits, aborts and steps."""

    def __init__(self, model_path: str, engine_args: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_engine_args(EngineArgs(model=model_path, **engine_args))
        self._tokenizer = self._engine.get_tokenizer()
        self._special = tuple(sorted(_special_tokens(self._tokenizer), key=len, reverse=True))
        self._engine_ids: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        return bool(self._engine.has_unfinished_requests())

    def submit(self, request: Message) -> None:
        """Queue one request. Raises if it can never be answered: too long, or a schema that xgrammar rejects."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        conversation = [
            {"role": role, "content": without_special_tokens(request[role], self._special)}
            for role in ("system", "user")
        ]
        prompt: Message = {
            "prompt_token_ids": self._tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        }
        if request["cache_salt"]:
            prompt["cache_salt"] = request["cache_salt"]
        parameters = SamplingParams(
            temperature=0.0,
            seed=request["seed"],
            max_tokens=request["max_tokens"],
            structured_outputs=StructuredOutputsParams(json=request["schema"]),
        )
        self._engine_ids[request["id"]] = self._engine.add_request(request["id"], prompt, parameters)

    def abort(self, request_id: str) -> None:
        """Stop a request; unknown or finished ones are no error."""
        if self._engine_ids.pop(request_id, None) is not None:
            self._engine.abort_request([request_id])

    def step(self) -> list[Message]:
        """Compute one token for every running request; the messages of those that finished."""
        messages = []
        for output in self._engine.step():
            if output.finished and self._engine_ids.pop(output.request_id, None) is not None:
                answer = output.outputs[0]
                messages.append(
                    {
                        "event": "result",
                        "id": output.request_id,
                        "text": answer.text,
                        "prompt_tokens": len(output.prompt_token_ids or ()),
                        "output_tokens": len(answer.token_ids),
                        "truncated": answer.finish_reason == "length",
                    }
                )
        return messages


def without_special_tokens(text: str, special_tokens: tuple[str, ...]) -> str:
    """The text with the model's control tokens blanked out, so that evidence cannot open a turn of its own.

    Each becomes a space; removing it instead could join two halves to a new one.
    """
    for token in special_tokens:
        text = text.replace(token, " ")
    return text


def _special_tokens(tokenizer: Any) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return set(tokenizer.all_special_tokens) | {token.content for token in added if token.special}


def _serve(session: VllmSession, commands: queue.SimpleQueue[Message], out: IO[str]) -> NoReturn:
    while True:
        while not session.busy or not commands.empty():
            _obey(session, commands.get(), out)
        for message in session.step():
            _say(out, **message)


def _obey(session: VllmSession, command: Message, out: IO[str]) -> None:
    if command["op"] == "abort":
        session.abort(command["id"])
        _say(out, event="aborted", id=command["id"])
        return
    try:
        session.submit(command)
    except Exception as error:  # vLLM, xgrammar and the chat template raise what they like; others must not suffer
        _say(out, event="refused", id=command["id"], detail=f"{type(error).__name__}: {error}"[:500])


def _warm_up(session: VllmSession) -> None:
    """Answer one small request, so that ``ready`` means that an answer was given, and the first one is not slow."""
    request = {"id": "warm-up", "system": "You answer in JSON.", "user": "Ready?", "cache_salt": "", "seed": 0}
    session.submit({**request, "schema": _WARM_UP_SCHEMA, "max_tokens": 16})
    while session.busy:
        for message in session.step():
            if json.loads(message["text"]) != {"ready": "yes"}:
                raise RuntimeError(f"the engine does not keep to a schema: it answered {message['text']!r}")


def _say(out: IO[str], **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _own_standard_output() -> IO[str]:
    """Take standard output for messages and send everybody else's prints to standard error."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return out


def _read_commands(commands: queue.SimpleQueue[Message]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Read the start-up message, load, then serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this process
    out = _own_standard_output()
    start = json.loads(sys.stdin.readline())
    os.nice(start["niceness"])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_SCORE)
    commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    try:
        session = VllmSession(start["model_path"], start["engine_args"])
        if start["warm_up"]:
            _warm_up(session)
    except Exception as error:  # whatever vLLM raises while loading, the parent must hear why
        _say(out, event="failed", detail=f"{type(error).__name__}: {error}"[:500])
        raise
    _say(out, event="ready")
    _serve(session, commands, out)


if __name__ == "__main__":
    main()
