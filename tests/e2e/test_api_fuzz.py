"""Every operation of the API with generated input, valid and not: no 500, and answers as the OpenAPI document says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from bench.system import System
from tests.e2e.conftest import Tenant, admin_headers

EXAMPLES = 12
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
# They would wait for the language model, or change what the other tests of the session stand on.
LEFT_OUT = re.compile(r"^/advisor/analyze$|^/api/admin/shards")


@pytest.fixture(scope="module")
def schema(system: System) -> schemathesis.BaseSchema:
    document = httpx.get(f"{system.base_url}/api/openapi.json").json()
    made = schemathesis.openapi.from_dict(document)
    made.config.update(base_url=system.base_url)
    return made


def test_generated_calls_get_described_answers(schema: schemathesis.BaseSchema, system: System, tenant: Tenant) -> None:
    tested = 0
    failures: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if LEFT_OUT.search(operation.path):
            continue
        is_admin = operation.path.startswith("/api/admin")
        headers = admin_headers(system) if is_admin else {"Authorization": f"Bearer {tenant.key}"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                calls_of(operation, headers)()
            except FailureGroup as group:
                failures += [f"{operation.label}: {failure} {failure.message}" for failure in group.exceptions]
        tested += 1
    assert failures == []
    assert tested > 10


def calls_of(operation: schemathesis.APIOperation, headers: dict[str, str]) -> Callable[[], None]:
    """A property test of one operation."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers, timeout=30)
        # Trouble that passes is an answer as well, and no answer to this input.
        if answer.status_code not in {429, 503}:
            case.validate_response(answer, checks=CHECKS)

    return call
