"""The card of an engine folder, written by commands: what it is, how it was made, what it gained and lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from egolive.assistant.model.engine_folder import EngineCard, write_engine_card

__all__ = ["record_loss", "write_card"]


def write_card(folder: Path, card: EngineCard) -> None:
    """Write README.md and engine.json."""
    write_engine_card(folder, card)
    size = sum(known["bytes"] for known in card.files.values()) / 1e6
    lines = [
        f"# {card.name}",
        "",
        f"An egolive engine folder for {card.backend}: `egolive run --engine {card.name}`.",
        "",
        f"- Made from {card.source['name']} (sha256 {card.source['sha256'][:16]}...) by "
        f"`{card.made.get('command', '')}`",
        "- Precision: " + ", ".join(f"{part} {kind}" for part, kind in card.precision.items()),
        f"- Size: {size:.1f} MB",
        "- Written with " + ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    ]
    if card.shapes.height:
        lines.insert(6, f"- Pictures of {card.shapes.width} x {card.shapes.height} pixels, no other size")
    parity = card.made.get("parity", {})
    if parity:
        told = ", ".join(f"{key.replace('_', ' ')} {value:.1e}" for key, value in parity.items())
        lines.append(f"- Largest differences from torch, as shares of the largest value: {told}")
    if card.loss:
        lines += ["", f"## Against {card.loss['reference']}", "", *_loss_rows(card.loss)]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def record_loss(folder: Path, card: EngineCard, loss: dict[str, Any]) -> None:
    """Write what was measured into a folder's card."""
    card.loss.clear()
    card.loss.update(loss)
    write_card(folder, card)


def _loss_rows(loss: dict[str, Any]) -> list[str]:
    shown = {key: value for key, value in loss.items() if key not in ("reference", "machine", "versions")}
    return [f"- {key}: {value}" for key, value in shown.items()]
