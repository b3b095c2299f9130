"""The Live tab: our own page parts in one Gradio component. Gradio's webcam tells no capture times."""

from __future__ import annotations

import gradio as gr

from egolive.demo.static_text import static_text

__all__ = ["live_tab"]


def live_tab(*, watched: bool, think: bool) -> gr.HTML:
    """Place the Live tab in the blocks that are being built.

    Args:
        watched: Pages watch a source of the server, and ask for no camera.
        think: The model's own habit, with which the page begins.
    """
    markup = static_text("live.html").replace("{watched}", "yes" if watched else "no")
    markup = markup.replace("{think}", " checked" if think else "")
    return gr.HTML(
        html_template=markup,
        js_on_load=f"{static_text('live_draw.js')}\n{static_text('live.js')}",
        elem_id="live",
        padding=False,
    )
