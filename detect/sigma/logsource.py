"""Which records a rule is meant for: Sigma's log source, with the conventions of its taxonomy kept as data."""

from __future__ import annotations

from detect.record import Logsource

# The service that a rule names on the left stands for records of all services on the right. SigmaHQ's `auth` is the
# file auth.log and `cron` the cron log, whatever program wrote the line.
SERVICE_MEMBERS: dict[tuple[str, str], frozenset[str]] = {
    ("linux", "auth"): frozenset(
        {
            "accounts", "auth", "authpriv", "chage", "chpasswd", "dropbear", "gdm", "gpasswd", "groupadd", "groupdel",
            "groupmod", "lightdm", "login", "newgrp", "pam", "passwd", "pkexec", "polkit", "polkitd", "sshd", "su",
            "sudo", "systemd-logind", "useradd", "userdel", "usermod", "vsftpd",
        }
    ),
    ("linux", "cron"): frozenset({"anacron", "atd", "cron", "crond", "crontab"}),
    ("linux", "sshd"): frozenset({"sshd", "sshd-session", "sshd-auth"}),
    ("linux", "sudo"): frozenset({"sudo"}),
    # Microsoft 365 has one unified audit log; rules name parts of it.
    ("m365", "audit"): frozenset({"audit", "exchange", "threat_detection", "threat_management"}),
}  # fmt: skip

# The service that a rule names means every record of the product except those of these services: any program's line
# can be in the syslog, audit records have a log of their own.
SERVICE_EXCEPTIONS: dict[tuple[str, str], frozenset[str]] = {
    ("linux", "syslog"): frozenset({"auditd"}),
}

# The category that a rule names on the left stands for records of all categories on the right.
CATEGORY_MEMBERS: dict[tuple[str, str], frozenset[str]] = {
    ("windows", "registry_event"): frozenset(
        {"registry_event", "registry_add", "registry_delete", "registry_rename", "registry_set"}
    ),
}


def applies(rule: Logsource, record: Logsource) -> bool:
    """Whether a rule with the log source `rule` is meant for records of `record`. Parts left empty ask nothing."""
    product = record.product.lower()
    if rule.product and rule.product != product:
        return False
    category = record.category.lower()
    if rule.category and category not in CATEGORY_MEMBERS.get((product, rule.category), (rule.category,)):
        return False
    return not rule.service or _service_applies(product, rule.service, record.service.lower())


def _service_applies(product: str, wanted: str, service: str) -> bool:
    if wanted == service:
        return True
    exceptions = SERVICE_EXCEPTIONS.get((product, wanted))
    if exceptions is not None:
        return service not in exceptions
    return service in SERVICE_MEMBERS.get((product, wanted), ())
