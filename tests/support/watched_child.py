"""A process whose every step outside is told: `python watched_child.py PLAN`, a JSON list of steps.

A step is a command line, a list of words; or "onnx", which runs a graph in ONNX Runtime as engines do; or
"page", which serves the demo's page, uses it over loopback as a browser would, and ends it; or "break out",
which does what the guard has to see. The last line of standard output is a JSON list with an object a step.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

told: list[tuple[str, str]] = []
"""Events of the step: what changes anything outside of the process, and everything about sockets."""
outside: list[tuple[str, str]] = []
"""Of these, what would have reached another machine, or asked for its address; it was refused."""
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime",
    "os.chmod", "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect", "os.system", "subprocess.Popen",
    "os.exec", "os.posix_spawn", "os.fork",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
REACHING = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.bind": 1}
"""Events whose argument of this place is an address."""
ASKING = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
"""Events whose first argument is a name or an address that is looked up."""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook; it stays for the life of the process."""
    if event.startswith("socket."):
        told.append((event, repr(arguments[1:])))
        place = 0 if event in ASKING else REACHING.get(event)
        if place is not None and not _is_here(arguments[place]):
            outside.append((event, repr(arguments[place])))
            raise PermissionError(f"{event}: not in this test")
    elif event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
        told.append((event, str(arguments[0])))


def _is_here(address: Any) -> bool:
    """Whether an address is of this machine: a loopback address, a path, or none."""
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host is None or host == "" or host == "localhost" or str(host).startswith(("/", "\0")):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def open_sockets() -> list[str]:
    """Sockets that are open: native code is not audited, but what it leaves open is seen."""
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        return []
    links = [str(one.readlink()) for one in handles.iterdir() if one.is_symlink()]
    return [link for link in links if link.startswith("socket:")]


def step_of(name: Any) -> dict[str, Any]:
    """Do one step; what was found, with the exit code where it is a command."""
    told.clear()
    outside.clear()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = (
            {"page": page, "onnx": onnx, "break out": break_out}[name]()
            if isinstance(name, str)
            else command(name)
        )
    events = [*told, *(("handle", link) for link in open_sockets())]
    return {"told": events, "outside": list(outside), "said": said.getvalue()} | found


def command(words: list[str]) -> dict[str, Any]:
    """A command line."""
    from egolive.assistant.cli import main as cli

    return {"code": cli.call(words)}


def onnx() -> dict[str, Any]:
    """A small graph in ONNX Runtime, opened as engines open theirs."""
    import numpy as np
    import torch
    from onnx import TensorProto, helper, save_model

    from egolive.assistant.backends.onnx.onnx_runtime import open_session

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Neg", ["a"], ["b"])], "g", ends[:1], ends[1:])
    path = Path(os.environ["TMPDIR"]) / "graph.onnx"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    session = open_session(path, torch.device("cpu"), 1)
    (found,) = session.run(None, {"a": np.ones(2, np.float32)})
    path.unlink()
    # What reports to its maker does so after a while.
    time.sleep(0.2)
    return {"answer": np.asarray(found).tolist()}


def page() -> dict[str, Any]:
    """The demo's page with a test picture as its camera, on a free port."""
    from egolive.assistant.cli import main as cli

    # Where the tests run in the background of a shell, it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found: dict[str, Any] = {"error": "the page was never reached"}

    def use() -> None:
        try:
            found.update(browse(port), error="")
        except Exception as error:  # told to the test, which is in another process
            found["error"] = repr(error)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=use)
    thread.start()
    code = cli.call(["--log-level", "debug", "demo", "--source", "test:", "--port", str(port)])
    thread.join()
    return found | {"code": code}


def browse(port: int) -> dict[str, Any]:
    """Load the page with all that it names, then watch, ask and leave."""
    _until_there(port)
    shown = asked(port, "GET", "/").decode()
    links = sorted(set(re.findall(r'(?:src|href)="([^"]+)"', shown)))
    for link in links:
        if not link.startswith(("http:", "https:", "//", "data:", "#")):
            asked(port, "GET", "/" + link.removeprefix(".").lstrip("/"))
    visit = json.loads(asked(port, "POST", "/live/open", {"tasks": ["intent"], "phrases": ["PHRASE"]}))[
        "visit"
    ]
    asked(port, "POST", f"/live/{visit}/ask", {"text": os.environ["SECRET"], "task": "when"})
    answers: set[str] = set()
    for _ in range(40):
        view = asked(port, "GET", f"/live/{visit}/view")
        length = int.from_bytes(view[:4], "big")
        answers |= set(_texts(json.loads(view[4 : 4 + length])))
        if len(answers) >= 2:
            break
        time.sleep(0.1)
    asked(port, "POST", f"/live/{visit}/close", {})
    return {"links": links, "answers": sorted(answers)}


def asked(port: int, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
    """One request as this page's own script would send it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        read = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{method} {path}: {answer.status} {read[:200]!r}")
    return read


def _until_there(port: int) -> None:
    for _ in range(600):
        try:
            asked(port, "GET", "/")
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the page does not answer")


def _texts(value: Any) -> Iterator[str]:
    """What stands under `text` anywhere in a JSON value."""
    if isinstance(value, dict):
        if isinstance(text := value.get("text"), str) and text:
            yield text
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def break_out() -> dict[str, Any]:
    """What the guard has to see and to refuse; addresses are those of documentation."""
    refused = 0
    for attempt in (
        lambda: socket.create_connection(("192.0.2.1", 9), timeout=1),
        lambda: socket.getaddrinfo("example.invalid", 443),
        lambda: socket.gethostbyname("example.invalid"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
        lambda: socket.socket().bind(("0.0.0.0", 0)),
    ):
        try:
            attempt()  # type: ignore[no-untyped-call]
        except PermissionError:
            refused += 1
    return {"refused": refused}


if __name__ == "__main__":
    sys.addaudithook(watch)
    # Everybody's messages: what a library logs may hold what was seen or said as well.
    logging.basicConfig(level=logging.DEBUG)
    steps = [step_of(name) for name in json.loads(sys.argv[1])]
    sys.stdout.write(json.dumps(steps) + "\n")
    sys.stdout.flush()
    # Threads of libraries may still wait.
    os._exit(0)
