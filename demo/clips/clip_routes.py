"""HTTP routes of the Clip tab: bring a clip, see and download what came of it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from egolive.demo.clips.clip_jobs import SERVED, ClipSessions
from egolive.demo.clips.uploads import UploadRefusedError, Uploads
from egolive.demo.security.names import client_network

__all__ = ["UPLOAD", "add_clip_routes"]

UPLOAD = "/clip/upload"
"""Where a clip is sent to, as the body of a POST."""


def add_clip_routes(app: FastAPI, clips: ClipSessions, uploads: Uploads) -> None:
    """Add the routes.

    Args:
        app: The server.
        clips: Of all visitors.
        uploads: Where clips are put as they come.
    """

    @app.post(UPLOAD)
    async def upload(request: Request, name: str = "") -> Response:
        length = request.headers.get("content-length", "")
        try:
            token = await uploads.receive(
                request.stream(),
                name=name,
                announced=int(length) if length.isdecimal() and len(length) < 20 else 0,
                address=client_network(request.client.host if request.client else None),
            )
        except UploadRefusedError as error:
            # What is still on its way is not read.
            headers = {"Connection": "close"} | ({"Retry-After": "10"} if error.status in (429, 507) else {})
            return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)
        return JSONResponse({"upload": token})

    @app.get("/clip/{word}/{name}")
    def file(word: str, name: str) -> Response:
        path = clips.file(word, name)
        if path is None:
            return PlainTextResponse("There is no such file, or the visit is over.", status_code=404)
        return FileResponse(path, media_type=SERVED[name], headers={"Cache-Control": "no-store"})
