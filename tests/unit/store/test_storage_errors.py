"""Which troubles of the database may pass, so that a sender is told to come back, and which are ours to fix."""

from __future__ import annotations

import asyncpg
import pytest

from store.postgres import StorageUnavailable, connect_pool, storage_errors


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (asyncpg.DiskFullError("no space left on device"), 30.0),
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), 1.0),
        (asyncpg.OutOfMemoryError("out of memory"), 5.0),
        (asyncpg.CannotConnectNowError("the database system is starting up"), 2.0),
        (asyncpg.AdminShutdownError("terminating connection"), 2.0),
        (asyncpg.CrashShutdownError("terminating connection"), 2.0),
        (asyncpg.ConnectionDoesNotExistError("connection was closed"), 2.0),
        (asyncpg.DeadlockDetectedError("deadlock detected"), 1.0),
        (asyncpg.InterfaceError("connection is closed"), 2.0),
        (asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"), 2.0),
        (ConnectionResetError("reset"), 2.0),
        (TimeoutError(), 2.0),
    ],
)
def test_what_may_pass_says_when_to_come_back(error: Exception, wait_s: float) -> None:
    with pytest.raises(StorageUnavailable) as caught, storage_errors():
        raise error
    assert caught.value.retry_after_s == wait_s
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("duplicate key"),
        asyncpg.InsufficientPrivilegeError("permission denied"),
        asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
        asyncpg.DataError("invalid input"),
        asyncpg.InterfaceError("cannot use Connection.transaction() in a manually started transaction"),
        ValueError("anything else"),
    ],
)
def test_what_is_ours_to_fix_goes_through_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors():
        raise error
    assert caught.value is error


async def test_a_server_that_is_not_there_may_come_back() -> None:
    with pytest.raises(StorageUnavailable):
        await connect_pool("postgresql://nobody@127.0.0.1:1/none", name="test")
