"""`python -m bench.fuzz otlp_protobuf|otlp_json|inflate [--seconds N] [--corpus FOLDER]`: libFuzzer through atheris.

Ends with status 0 when no law broke in that time; a finding is printed with the input that makes it, kept as crash-*.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped] # no stubs exist
import orjson

from bench.load import export_request

_MAX_BYTES = 4096


def main() -> int:
    """Runs one target; libFuzzer ends the process itself."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("target", choices=["otlp_protobuf", "otlp_json", "inflate"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="keeps what was found interesting; a temporary folder otherwise")
    given = parser.parse_args()
    with atheris.instrument_imports(include=["detect"]):
        from bench.fuzz import laws

    def one_input(data: bytes) -> None:
        match given.target:
            case "inflate":
                laws.inflate_law(data)
            case kind:
                laws.otlp_law(kind, data)
                laws.detector_law(kind, data)

    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="trustsoc-fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for name, seed in _seeds(given.target).items():
        (corpus / name).write_bytes(seed)
    options = [f"-max_total_time={given.seconds}", f"-max_len={_MAX_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()
    return 0


def _seeds(target: str) -> dict[str, bytes]:
    request = export_request(3, 1, 1_764_547_200_000_000_000)
    json_request = {
        "resourceLogs": [
            {
                "resource": {"attributes": [{"key": "host.name", "value": {"stringValue": "web-1"}}]},
                "scopeLogs": [
                    {
                        "logRecords": [
                            {
                                "timeUnixNano": "1764547200000000000",
                                "traceId": "5b8efff798038103d269b633813fc60c",
                                "body": {"kvlistValue": {"values": [{"key": "a", "value": {"intValue": "1"}}]}},
                            }
                        ]
                    }
                ],
            }
        ]
    }
    match target:
        case "otlp_protobuf":
            return {"seed": gzip.decompress(request)}
        case "otlp_json":
            return {"seed": orjson.dumps(json_request)}
        case _:
            return {"seed": request}


if __name__ == "__main__":
    sys.exit(main())
