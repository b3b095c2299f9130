"""Made-up machines, as the doctor is told of them."""

from __future__ import annotations

from egolive.assistant.system import machine


def facts(**changes: object) -> machine.Facts:
    """A machine that lacks nothing, with changes."""
    here: machine.Facts = {
        "gpus": [{"device": "cuda:0", "name": "GPU", "total": 24e9, "free": 20e9, "capability": "8.9"}],
        "cameras": [{"path": "/dev/video0", "name": "cam", "readable": True}],
        "memory": {"total": 32_000_000_000, "available": 16_000_000_000},
    }
    versions = {"trl": "1", "peft": "1", "datasets": "1", "xgrammar": "1"}
    return {"machine": here | {k: v for k, v in changes.items() if k != "versions"}, "versions": versions} | {
        k: v for k, v in changes.items() if k == "versions"
    }
