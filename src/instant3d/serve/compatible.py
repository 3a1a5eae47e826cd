"""The protocols of two other servers, so that their clients work here unchanged.

Hunyuan3D-2's server (its Blender add-on): `/generate`, `/send` and `/status/UID`. LocalAI: `/3d/generations`.
"""

from __future__ import annotations

import base64
import binascii
import io
import time
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from instant3d.serve import uploads
from instant3d.serve.scheduler import Scheduler
from instant3d.serve.schemas import ENDED, ERRORS, MAX_SEED, MOST_STEPS, ImageOptions, Options, checked_prompt
from instant3d.serve.store import StoredJob
from instant3d.utils.mesh_options import MAX_FACES
from instant3d.utils.prompts import LONGEST

MESH = "mesh.glb"
DATA_URI = "data:"
router = APIRouter(responses=ERRORS)


class HunyuanRequest(BaseModel):
    """A request of Hunyuan3D-2's clients; `octree_resolution` and other settings of its own networks are not used."""

    text: str | None = Field(None, max_length=LONGEST)
    image: str | None = Field(None, description="in base64")
    mesh: str | None = Field(None, description="refused: a given mesh is not textured here")
    seed: int = Field(0, ge=0, le=MAX_SEED)
    num_inference_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    texture: bool = Field(True, description="false: vertex colours")
    face_count: int | None = Field(None, ge=4, le=MAX_FACES)
    type: Literal["glb"] = "glb"


class LocalAIRequest(BaseModel):
    """A request of LocalAI's clients; `quality`, `background` and `texture_steps` are not used."""

    model: str = Field(min_length=1, max_length=200, description="any name: the server has one model")
    image: str | None = Field(None, description="in base64, or as a data URI; an address is not fetched")
    prompt: str | None = Field(None, max_length=LONGEST, description="in place of an image")
    seed: int = Field(0, ge=0, le=MAX_SEED)
    step: int | None = Field(None, ge=1, le=MOST_STEPS)
    cfg_scale: float | None = Field(None, ge=0, le=100)
    response_format: Literal["url", "b64_json"] = "url"


class Uid(BaseModel):
    """The name of a job that was sent."""

    uid: str


class Status(BaseModel):
    """The state of a job that was sent."""

    status: Literal["processing", "completed", "failed"]
    model_base64: str | None = None
    error: str | None = None


@router.post("/generate", response_model=None, responses={200: {"content": {"model/gltf-binary": {}}}})
async def generate(request: Request, wanted: HunyuanRequest) -> FileResponse | JSONResponse:
    """Generate an asset and answer with its .glb (Hunyuan3D-2)."""
    scheduler: Scheduler = request.app.state.scheduler
    job = await scheduler.until_ended((await _send(scheduler, wanted)).id)
    if job is None or job.state != "done":
        return JSONResponse({"error": _reason(job), "text": _reason(job), "error_code": 1}, 404)
    return FileResponse(scheduler.folder_of(job.id) / MESH, media_type="model/gltf-binary")


@router.post("/send")
async def send(request: Request, wanted: HunyuanRequest) -> Uid:
    """Queue a job (Hunyuan3D-2)."""
    return Uid(uid=(await _send(request.app.state.scheduler, wanted)).id)


@router.get("/status/{uid}", response_model_exclude_none=True)
def status(request: Request, uid: str) -> Status:
    """Return a job's state and, when it is done, its .glb in base64 (Hunyuan3D-2)."""
    scheduler: Scheduler = request.app.state.scheduler
    try:
        job = scheduler.store.get(uid)
    except KeyError:
        raise HTTPException(404, "there is no job of that uid") from None
    if job.state == "done":
        return Status(status="completed", model_base64=_encoded(scheduler, job))
    return Status(status="failed", error=_reason(job)) if job.state in ENDED else Status(status="processing")


@router.post("/3d/generations")
@router.post("/v1/3d/generations", include_in_schema=False)
async def generations(request: Request, wanted: LocalAIRequest) -> JSONResponse:
    """Generate an asset and answer with its address or its content (LocalAI)."""
    scheduler: Scheduler = request.app.state.scheduler
    sampling = {"steps": wanted.step, "guidance": wanted.cfg_scale}
    queued = await _submit(scheduler, wanted.prompt, wanted.image, wanted.seed, sampling, {})
    job = await scheduler.until_ended(queued.id)
    if job is None or job.state != "done":
        raise HTTPException(404, _reason(job))
    item = (
        {"b64_json": _encoded(scheduler, job)}
        if wanted.response_format == "b64_json"
        else {"url": str(request.url.replace(path=f"/api/v1/jobs/{job.id}/files/{MESH}", query=""))}
    )
    return JSONResponse({"created": int(time.time()), "id": job.id, "data": [item]})


async def _send(scheduler: Scheduler, wanted: HunyuanRequest) -> StoredJob:
    if wanted.mesh is not None:
        raise HTTPException(422, "a given mesh is not textured here; send text or an image without it")
    sampling = {"steps": wanted.num_inference_steps, "guidance": wanted.guidance_scale}
    shape = {"faces": wanted.face_count, "texture": None if wanted.texture else "none"}
    return await _submit(scheduler, wanted.text, wanted.image, wanted.seed, sampling, shape)


async def _submit(
    scheduler: Scheduler,
    text: str | None,
    image: str | None,
    seed: int,
    sampling: dict[str, Any],
    shape: dict[str, Any],
) -> StoredJob:
    """Queue a job of a text or an image.

    Raises:
        HTTPException: There is neither or both, or the image cannot be read.
    """
    if (text is None) == (image is None):
        raise HTTPException(422, "send either a text or an image")
    try:
        if text is not None:
            options = Options(seed=seed, **sampling, **shape)
            return await scheduler.submit("text", checked_prompt(text), options.model_dump())
        content = io.BytesIO(_decoded(image or ""))
        options = ImageOptions(seed=seed, **shape)
        return await scheduler.submit_images(
            options.model_dump(), lambda folder: uploads.store_images([content], folder)
        )
    except uploads.UnsupportedUpload as error:
        raise HTTPException(415, str(error)) from error
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _decoded(image: str) -> bytes:
    """Read base64, bare or in a data URI."""
    if image.startswith(("http:", "https:")):
        raise ValueError("the server fetches no addresses; send the image itself in base64")
    content = image.partition(",")[2] if image.startswith(DATA_URI) else image
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the image is not base64") from error


def _encoded(scheduler: Scheduler, job: StoredJob) -> str:
    return base64.b64encode((scheduler.folder_of(job.id) / MESH).read_bytes()).decode()


def _reason(job: StoredJob | None) -> str:
    return "the job was deleted" if job is None else job.error or "the job was cancelled"
