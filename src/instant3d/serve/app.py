"""The application: the API under /api/v1, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from instant3d import __version__
from instant3d.serve import compatible, uploads
from instant3d.serve.jobs import describe, files_of, media_type
from instant3d.serve.page_routes import add_page
from instant3d.serve.scheduler import QueueFull, Scheduler
from instant3d.serve.schemas import (
    ENDED,
    ERRORS,
    Health,
    ImageOptions,
    Job,
    JobList,
    Limits,
    Login,
    Models,
    TextRequest,
)
from instant3d.serve.security import COOKIE, Gate, same_token
from instant3d.serve.settings import ServeSettings
from instant3d.serve.store import JobStore, StoredJob
from instant3d.serve.worker_process import BatchWorker

MOST_LISTENERS = 200  # streams of events at a time
HEARTBEAT_SECONDS = 15.0
RETRY_SECONDS = 10
DATABASE = "jobs.sqlite3"
LARGEST_NUMBER = 2**62  # of a job
Model = TypeVar("Model")

FORM = {  # of a job that reconstructs
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "options": {"type": "string", "description": "the fields of a text job but the prompt, as JSON"},
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": uploads.MOST_IMAGES},
        "scene": {"type": "string", "format": "binary", "description": "a zip of a scene folder"},
    },
}
JOB_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": TextRequest.model_json_schema()},
        "multipart/form-data": {"schema": FORM},
    },
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

api = APIRouter(prefix="/api/v1", responses=ERRORS)


def create_app(settings: ServeSettings, workers: Sequence[BatchWorker] | None = None) -> FastAPI:
    """Build the application.

    Args:
        settings: Of the server.
        workers: Where batches run; None: in processes of this machine.

    Raises:
        ValueError: The folder of data holds the database of another version.
        OSError: The folder of data cannot be written.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    store = JobStore(settings.data / DATABASE)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler = app.state.scheduler = Scheduler(settings, store, workers)
        await scheduler.start()
        try:
            yield
        finally:
            await scheduler.stop()
            store.close()

    app = FastAPI(title="instant3d", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.settings, app.state.store, app.state.listeners = settings, store, 0
    app.add_middleware(Gate, settings=settings)
    app.include_router(api)
    app.include_router(compatible.router)
    add_page(app)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(QueueFull, _full)
    return app


@api.post("/jobs", status_code=202, openapi_extra={"requestBody": JOB_BODY})
async def create_job(request: Request, response: Response) -> Job:
    """Queue a job: JSON with a prompt, or a form with `options` and `images` or a `scene`."""
    scheduler: Scheduler = request.app.state.scheduler
    scheduler.check_room()  # before the images are received
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        job = await _submit_text(scheduler, await request.body())
    elif kind == "multipart/form-data":
        job = await _submit_images(scheduler, request)
    else:
        raise HTTPException(415, "send application/json with a prompt, or multipart/form-data with images")
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return describe(job, scheduler)


async def _submit_text(scheduler: Scheduler, body: bytes) -> StoredJob:
    wanted = _validated(TextRequest, body)
    return await scheduler.submit("text", wanted.prompt, wanted.options().model_dump())


async def _submit_images(scheduler: Scheduler, request: Request) -> StoredJob:
    async with request.form(max_files=uploads.MOST_IMAGES, max_fields=1) as form:
        unknown = form.keys() - {"options", "images", "scene"}
        images = [part for part in form.getlist("images") if not isinstance(part, str)]
        archives = [part for part in form.getlist("scene") if not isinstance(part, str)]
        options = form.get("options", "{}")
        if unknown or not isinstance(options, str) or (bool(images) == bool(archives)) or len(archives) > 1:
            raise HTTPException(422, "a form has `options` as JSON and either 1 to 4 `images` or one `scene`, a zip")
        wanted = _validated(ImageOptions, options.encode()).model_dump()
        try:
            if images:
                files = [part.file for part in images]
                return await scheduler.submit_images(wanted, lambda folder: uploads.store_images(files, folder))
            return await scheduler.submit_images(wanted, lambda folder: uploads.store_scene(archives[0].file, folder))
        except uploads.UnsupportedUpload as error:
            raise HTTPException(415, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error


@api.get("/jobs")
def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_NUMBER, description="`next` of an answer")] = None,
) -> JobList:
    """List jobs, the newest first, from the newest or from where an earlier answer ended."""
    scheduler: Scheduler = request.app.state.scheduler
    found = scheduler.store.newest(limit + 1, before)  # one more tells whether there are others
    shown = found[:limit]
    return JobList(
        jobs=[describe(job, scheduler) for job in shown], next=shown[-1].number if len(found) > limit else None
    )


@api.get("/jobs/{name}")
def get_job(request: Request, name: str) -> Job:
    """Return a job."""
    return describe(_job(request, name), request.app.state.scheduler)


@api.delete("/jobs/{name}", response_model=None, responses={200: {"model": Job}, 204: {}})
async def delete_job(request: Request, name: str) -> Response | Job:
    """Cancel a job that waits or runs; delete one that has ended, with its files."""
    job = _job(request, name)
    await request.app.state.scheduler.cancel(name)
    if job.state in ENDED:
        return Response(status_code=204)
    return describe(_job(request, name), request.app.state.scheduler)


@api.get("/jobs/{name}/events", response_class=StreamingResponse, responses=EVENT_STREAM)
async def job_events(request: Request, name: str) -> StreamingResponse:
    """Stream the job as an event `job` at once and at each of its changes, until it has ended."""
    _job(request, name)
    if request.app.state.listeners >= MOST_LISTENERS:
        raise HTTPException(429, "too many clients follow jobs; try again later", {"Retry-After": str(RETRY_SECONDS)})
    return StreamingResponse(
        _events(request, name), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(request: Request, name: str) -> AsyncIterator[str]:
    scheduler: Scheduler = request.app.state.scheduler
    request.app.state.listeners += 1
    try:
        sent, number = "", 0
        changes = scheduler.changes(HEARTBEAT_SECONDS)
        while True:
            try:
                job = describe(scheduler.store.get(name), scheduler)
            except KeyError:
                return  # deleted
            text = job.model_dump_json()
            if text != sent:
                sent, number = text, number + 1
                yield f"id: {number}\nevent: job\ndata: {text}\n\n"
            if job.state in ENDED:
                return
            if not await anext(changes):
                yield ": still here\n\n"
    finally:
        request.app.state.listeners -= 1


@api.get("/jobs/{name}/files/{file}", response_class=FileResponse, responses={200: {"content": {"*/*": {}}}})
def get_file(request: Request, name: str, file: str, download: bool = False) -> FileResponse:
    """Return a file of a job, one of the names that the job lists."""
    job = _job(request, name)
    folder = request.app.state.scheduler.folder_of(job.id)
    if file not in files_of(folder):
        raise HTTPException(404, "the job has no such file; its field `files` lists them")
    return FileResponse(
        folder / file,
        media_type=media_type(file),
        filename=file if download else None,
        headers={"Cache-Control": "private, no-cache"},
    )


@api.get("/health")
def health(request: Request) -> Health:
    """Whether the server runs, and how much it has to do."""
    scheduler: Scheduler = request.app.state.scheduler
    return Health(
        version=__version__,
        system=scheduler.settings.system,
        workers=len(scheduler.workers),
        ready=sum(worker.ready for worker in scheduler.workers),
        queued=scheduler.store.count("queued"),
        running=scheduler.store.count("running"),
        fault=scheduler.fault,
    )


@api.get("/models")
def models(request: Request) -> Models:
    """The weights that are loaded, with defaults and limits."""
    scheduler: Scheduler = request.app.state.scheduler
    settings = scheduler.settings
    return Models(
        system=settings.system,
        **next((worker.loaded for worker in scheduler.workers if worker.ready), {}),
        takes_photos=True,
        limits=Limits(images=uploads.MOST_IMAGES, upload_bytes=settings.upload_bytes, job_seconds=settings.job_seconds),
    )


@api.post("/login", status_code=204)
def login(request: Request, given: Login) -> Response:
    """Exchange the token for a cookie, for the page."""
    settings: ServeSettings = request.app.state.settings
    if settings.token is None or not same_token(settings.token, given.token):
        raise HTTPException(401, "this is not the server's token; it is what --token named when the server was started")
    response = Response(status_code=204)
    response.set_cookie(COOKIE, given.token, httponly=True, samesite="strict", path="/")
    return response


def _job(request: Request, name: str) -> StoredJob:
    try:
        return request.app.state.store.get(name)
    except KeyError:
        raise HTTPException(404, "there is no job of that id") from None


def _validated(kind: type[Model], body: bytes) -> Model:
    try:
        return TypeAdapter(kind).validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, _sentence(error.errors())) from error


def _sentence(errors: Any) -> str:
    """The first error of a validation as one sentence."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return f"{where or 'the request'}: {first['msg'].removeprefix('Value error, ')}"


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": _sentence(error.errors())}, 422)  # type: ignore[attr-defined]


async def _refused(request: Request, error: Exception) -> JSONResponse:
    code, detail, headers = error.status_code, error.detail, error.headers  # type: ignore[attr-defined]
    return JSONResponse({"error": str(detail)}, code, headers)


async def _full(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 429, {"Retry-After": str(RETRY_SECONDS)})
