"""`egolive service`: a systemd unit that starts a run with the machine.

    egolive service 0 --out /srv/egolive --segment 10 --keep 20GB      prints the unit
    egolive service --user --install 0 --out ~/egolive --segment 10    writes it to its place

What stands behind the command's own options is that of `egolive run`, and is checked as there. The unit asks
nothing at a terminal. A run that fails, or that a loss of power ends, starts again, ever more slowly up to
five minutes; one that comes to its end, or is stopped, does not.
"""

from __future__ import annotations

import getpass
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import CycloptsError, Parameter

from egolive.assistant.cli.options import GIVEN, OUTPUT
from egolive.assistant.cli.printing import note, wrote
from egolive.streaming.durable_files import replace_file
from egolive.streaming.errors import SinkError, UsageError

__all__ = ["service", "unit_file"]

_UNIT = """\
[Unit]
Description=egolive, the assistant on {source}
Wants=network-online.target
After=network-online.target
# It is tried for ever: a camera may come back after days.
StartLimitIntervalSec=0

[Service]
Type=exec
{user}WorkingDirectory={folder}
ExecStart={command}
StandardInput=null
# Stopped and terminated runs have finished their files.
SuccessExitStatus=130 143
TimeoutStopSec=30
Restart=on-failure
# 5 s, then longer and longer up to 5 minutes (systemd 254 and later; earlier ones stay at 5 s).
RestartSec=5
RestartSteps=6
RestartMaxDelaySec=300

[Install]
WantedBy={target}
"""
_CHARACTERS = {"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$", "\n": "\\n"}
_SETTLED = ("--no-ask", "--no-view")
"""What a run that nobody watches is told beside its own options."""


def service(
    *run: Annotated[str, Parameter(allow_leading_hyphen=True, group=GIVEN)],
    user: Annotated[bool, Parameter(negative="", group=OUTPUT)] = False,
    install: Annotated[bool, Parameter(negative="", group=OUTPUT)] = False,
    name: Annotated[str, Parameter(group=OUTPUT)] = "egolive",
) -> None:
    """Print or install a systemd unit that starts a run with the machine.

    Args:
        run: Source and options of `egolive run`.
        user: A unit of this user, which starts with the first login, or with the machine once lingering is
            on; without it one of the system, which runs as this user.
        install: Write it to its place instead of printing it, and tell how it is switched on.
        name: Of the unit.
    """
    if not name or not all(letter.isalnum() or letter in "-_.@" for letter in name):
        raise UsageError(f"--name has letters, digits, - and _ alone, got {name!r}")
    source = _checked(run)
    text = unit_file(run, source=source, user=user)
    if not install:
        sys.stdout.write(text)
        return
    place = Path.home() / ".config" / "systemd" / "user" if user else Path("/etc/systemd/system")
    path = place / f"{name}.service"
    try:
        place.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        remedy = "choose --user" if not user else "print it without --install"
        raise SinkError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error
    wrote(path)
    systemctl = "systemctl --user" if user else "systemctl"
    note(f"switch it on: {systemctl} daemon-reload && {systemctl} enable --now {name}")
    if user:
        note(f"without a login: loginctl enable-linger {getpass.getuser()}")


def unit_file(run: tuple[str, ...], *, source: str, user: bool) -> str:
    """The text of the unit.

    Args:
        run: What stands behind `egolive run`.
        source: As it is called in the description.
        user: Whether it is a unit of this user.
    """
    program = Path(sys.executable).with_name("egolive")
    command = (str(program if program.exists() else shutil.which("egolive") or program), "run", *run)
    command += tuple(option for option in _SETTLED if option not in run)
    return _UNIT.format(
        source=_escaped(source),
        user="" if user else f"User={_escaped(getpass.getuser())}\n",
        # A path has no quotes around it here.
        folder=str(Path.cwd()).replace("%", "%%"),
        command=" ".join(f'"{_escaped(word)}"' for word in command),
        target="default.target" if user else "multi-user.target",
    )


def _checked(run: tuple[str, ...]) -> str:
    """Parse the options as `egolive run` does; returns what is watched.

    Raises:
        UsageError: `egolive run` would refuse them.
    """
    from egolive.assistant.cli.main import app

    try:
        _, bound, _ = app.parse_args(["run", *run], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(f"egolive run would refuse this: {' '.join(str(error).split())}") from error
    source = bound.arguments.get("source")
    return os.fspath(source) if source else "the bundled clip"


def _escaped(word: str) -> str:
    """A word as systemd has it between double quotes."""
    return "".join(_CHARACTERS.get(letter, letter) for letter in word)
