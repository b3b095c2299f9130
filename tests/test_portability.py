"""Every module can be imported where Python lacks what only POSIX systems have, as on Windows."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = '''
import builtins, importlib, json, os, pkgutil, signal, socket, sys, types

MISSING = {"resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "syslog", "posix"}
NAMES = {
    os: {"sched_getaffinity", "sysconf", "fork", "forkpty", "getuid", "geteuid", "getgid", "setsid", "killpg",
         "mkfifo", "uname", "nice", "getloadavg", "statvfs", "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC"},
    signal: {"SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGWINCH", "SIGQUIT",
             "setitimer", "alarm", "pthread_sigmask", "pause"},
    socket: {"AF_UNIX"},
}
WINDOWS = {}
for module, names in NAMES.items():
    WINDOWS[module.__name__] = types.ModuleType(module.__name__)
    vars(WINDOWS[module.__name__]).update({k: v for k, v in vars(module).items() if k not in names})

real = builtins.__import__
def limited(name, globals=None, locals=None, fromlist=(), level=0):
    """What our own modules import; the standard library and other packages know themselves where they run."""
    if level == 0 and str((globals or {}).get("__name__", "")).startswith("egolive"):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if name in WINDOWS:
            return WINDOWS[name]
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = limited

def failure(code):
    try:
        exec(code, {"__name__": "egolive.probe"})
    except Exception as error:
        return type(error).__name__

import egolive
modules = [found.name for found in pkgutil.walk_packages(egolive.__path__, "egolive.")]
failures = {}
for name in modules:
    if name.endswith("__main__"):
        continue
    try:
        importlib.import_module(name)
    except BaseException as error:
        failures[name] = f"{type(error).__name__}: {error}"
json.dump(
    {
        "modules": len(modules),
        "failures": failures,
        "probes": [failure(code) for code in (
            "import resource", "from termios import tcgetattr", "import os; os.mkfifo",
            "from signal import SIGKILL", "import os, signal; os.getpid(), signal.SIGTERM",
        )],
    },
    sys.stdout,
)
'''


def test_no_module_needs_what_only_posix_has_to_be_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == {}
    assert found["modules"] > 200
    # What is blocked is blocked, and nothing else.
    assert found["probes"] == [
        "ModuleNotFoundError",
        "ModuleNotFoundError",
        "AttributeError",
        "ImportError",
        None,
    ]
