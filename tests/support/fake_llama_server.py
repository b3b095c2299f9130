"""What `egolive bench peers` needs of llama.cpp's server: its options, health, log, answers and timings.

    python fake_llama_server.py -m model.gguf --mmproj mmproj.gguf --host 127.0.0.1 --port 8080 ...

A model whose name has "broken" in it ends it at once, with a line in the log. It listens a moment later.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHOWN: set[str] = set()
WORDS = ("the ", "wearer ", "pours ", "tea")


class Handler(BaseHTTPRequestHandler):
    """Answers every question with the same words."""

    protocol_version = "HTTP/1.0"

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = [part for message in asked["messages"] for part in message["content"]]
        parts = [part for part in content if isinstance(part, dict) and part["type"] == "image_url"]
        shown = json.dumps(parts)
        # As llama.cpp's cache of prompts: what it has been shown before is found again.
        kept = 60 if asked.get("cache_prompt") and shown in SHOWN else 0
        SHOWN.add(shown)
        pictures = 0 if kept else len(parts)
        for _ in range(pictures):
            sys.stderr.write("srv: image slice encoded in 20 ms\n")
        sys.stderr.flush()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in WORDS:
            self._send({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        # As llama.cpp does: what it took stands in the last event.
        self._send(
            {
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "usage": {"completion_tokens": len(WORDS), "prompt_tokens": 100, "total_tokens": 104},
                "timings": {
                    "prompt_n": 100 - kept,
                    "cache_n": kept,
                    "prompt_ms": 20.0 * pictures + 30,
                    "predicted_n": len(WORDS),
                    "predicted_ms": 8.0,
                },
            }
        )
        self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, event: object) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model", required=True)
    parser.add_argument("--mmproj", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-np", type=int)
    parser.add_argument("-c", type=int)
    parser.add_argument("-t", type=int)
    parser.add_argument("-tb", type=int)
    parser.add_argument("-lv", type=int)
    options = parser.parse_args()
    if "broken" in options.model:
        sys.exit("error: failed to load the model")
    time.sleep(0.1)
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
