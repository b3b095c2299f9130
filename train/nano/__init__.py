"""The bundled small model: architecture, losses, and its training from random weights."""
