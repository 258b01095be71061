"""Which records a rule is for."""

from __future__ import annotations

import pytest

from detect.record import Logsource
from detect.sigma.logsource import applies


@pytest.mark.parametrize(
    ("rule", "record", "expected"),
    [
        (("windows", "process_creation", ""), ("windows", "process_creation", "sysmon"), True),
        (("windows", "process_creation", ""), ("windows", "process_creation", "security"), True),
        (("windows", "", "security"), ("windows", "process_creation", "security"), True),
        (("windows", "", "security"), ("windows", "process_creation", "sysmon"), False),
        (("windows", "", ""), ("windows", "file_event", "sysmon"), True),
        (("windows", "registry_event", ""), ("windows", "registry_set", "sysmon"), True),
        (("windows", "registry_set", ""), ("windows", "registry_add", "sysmon"), False),
        (("linux", "", "auth"), ("linux", "", "sshd"), True),
        (("linux", "", "auth"), ("linux", "process_creation", "sudo"), True),
        (("linux", "", "auth"), ("linux", "", "cron"), False),
        (("linux", "", "syslog"), ("linux", "", "cron"), True),
        (("linux", "", "syslog"), ("linux", "", "anything"), True),
        (("linux", "", "syslog"), ("linux", "", "auditd"), False),
        (("linux", "", "auditd"), ("linux", "process_creation", "auditd"), True),
        (("linux", "", "sshd"), ("linux", "", "sudo"), False),
        (("linux", "process_creation", ""), ("windows", "process_creation", "sysmon"), False),
        (("", "webserver", ""), ("", "webserver", "nginx"), True),
        (("", "webserver", ""), ("linux", "webserver", ""), True),
        (("nginx", "", ""), ("", "webserver", "nginx"), False),
        (("windows", "", ""), ("Windows", "", ""), True),
        (("linux", "", ""), ("", "", ""), False),
    ],
)
def test_applies(rule: tuple[str, str, str], record: tuple[str, str, str], expected: bool) -> None:
    assert applies(Logsource(*rule), Logsource(*record)) is expected
