"""Commands that look: events, incidents, one incident, its advisory, log records, and the state of the cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cluster import render
from cluster.cli_options import AsJson, Cursor, DataDir, Entity, From, Limit, Tenant, To, Url, keyring_of, moment
from cluster.client import ApiClient, path_segment
from cluster.render_advisory import advisory as render_advisory
from cluster.render_incident import incident as render_incident
from cluster.render_log import record as render_record
from cluster.render_status import status as render_status


class Severity(StrEnum):
    """The levels of detection events, lowest first."""

    informational = "informational"
    low = "low"
    medium = "medium"
    high = "high"
    critical = "critical"


class IncidentState(StrEnum):
    """What can have become of an incident."""

    open = "open"
    acknowledged = "acknowledged"
    closed = "closed"


AtLeast = Annotated[Severity | None, typer.Option("--severity", "-s", help="At least this severe.")]

logs_app = typer.Typer(no_args_is_help=True, help="Stored log records.")


def events(  # noqa: PLR0913 - every option is a parameter
    *,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    start: From = None,
    end: To = None,
    severity: AtLeast = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Of that rule id.")] = None,
    entity: Entity = None,
    limit: Limit = 30,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """Detection events, newest first."""
    query = {"from": moment(start, "--from"), "to": moment(end, "--to"), "rule": rule, "entity": entity}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/events", {**query, "severity": severity, "cursor": cursor}, limit)
    render.show_items(page, render.events, as_json)


def incidents(  # noqa: PLR0913 - every option is a parameter
    *,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    state: Annotated[IncidentState | None, typer.Option("--state", help="Only these.")] = None,
    severity: AtLeast = None,
    start: From = None,
    end: To = None,
    limit: Limit = 30,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """Incidents, the one with the newest event first."""
    query = {"state": state, "severity": severity, "from": moment(start, "--from"), "to": moment(end, "--to")}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/incidents", {**query, "cursor": cursor}, limit)
    render.show_items(page, render.incidents, as_json)


IncidentId = Annotated[str, typer.Argument(metavar="ID", help="The incident's id, from `trustsoc incidents`.")]


def incident(
    incident_id: IncidentId, data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False
) -> None:
    """One incident: its timeline, and why every event is a member."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        render.show(client.get(f"/api/incidents/{path_segment(incident_id)}"), render_incident, as_json)


def advisory(
    incident_id: IncidentId, data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False
) -> None:
    """What the advisor says about an incident, with its evidence."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        render.show(client.get(f"/api/incidents/{path_segment(incident_id)}/advisory"), render_advisory, as_json)


@logs_app.command("search")
def logs_search(  # noqa: PLR0913 - every option is a parameter
    text: Annotated[str | None, typer.Argument(help="Text that the record holds, in any case.")] = None,
    *,
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    start: From = None,
    end: To = None,
    entity: Entity = None,
    limit: Limit = 30,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """Log records, newest first; without --from those of the last 24 hours."""
    query = {"from": moment(start, "--from"), "to": moment(end, "--to"), "text": text, "entity": entity}
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        page = client.page("/api/logs", {**query, "cursor": cursor}, limit)
    render.show_items(page, render.logs, as_json)


@logs_app.command("show")
def logs_show(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="The record's id, such as 12-3.")],
    data_dir: DataDir = None,
    url: Url = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """One stored record, whole, with its digest: what an evidence id points at."""
    with keyring_of(data_dir, url).tenant_client(tenant) as client:
        render.show(client.get(f"/api/logs/{path_segment(record)}"), render_record, as_json)


def status(data_dir: DataDir = None, url: Url = None, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """What runs, how far detection is behind, and what the language model is doing."""
    keyring = keyring_of(data_dir, url)
    # A refused connection must say so before a missing key does: nothing runs, so no key would help.
    with ApiClient(keyring.base_url) as probe:
        probe.reach()
    with keyring.tenant_client(tenant) as client:
        answer = client.get("/api/status")
    render.show(answer, lambda value: render_status(value, keyring.base_url, keyring.tenant_name(tenant)), as_json)
