"""The API's requests and answers (Pydantic)."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from instant3d.stage1.sampling_options import Sampling
from instant3d.utils.mesh_options import DEFAULT, FEWEST, FORMATS, MAX_FACES, PRESETS, TEXTURE_SIDES, MeshOptions
from instant3d.utils.prompts import LONGEST, from_arguments

MOST_STEPS = 200
MAX_SEED = 10**18 - 1  # as the command's --seed

State = Literal["queued", "running", "done", "failed", "cancelled"]
Kind = Literal["text", "images"]
ENDED = ("done", "failed", "cancelled")


class Options(BaseModel):
    """Options of a job: those of the denoising and of the mesh."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(0, ge=0, le=MAX_SEED, description="the same seed and prompt give the same asset")
    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="of denoising; the default is the command's")
    guidance: float | None = Field(None, ge=0, le=100, description="how close to the prompt")
    negative_prompt: str = Field("", max_length=LONGEST)
    faces: int | Literal["full"] | None = Field(None, description="triangles at most")
    texture: int | Literal["none"] | None = Field(None, description="pixels a side, or none for vertex colours")
    formats: list[str] = Field(["glb"], min_length=1, max_length=len(FORMATS), description="of the mesh")
    preset: Literal["game", "print", "web"] | None = Field(None, description="options of the mesh for a purpose")
    resolution: int | None = Field(None, ge=16, le=512, description="nodes along each axis of the mesh's grid")

    @field_validator("faces")
    @classmethod
    def _faces_in_range(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not FEWEST <= value <= MAX_FACES:
            raise ValueError(f"a mesh has between {FEWEST} and {MAX_FACES} faces")
        return value

    @field_validator("texture")
    @classmethod
    def _texture_in_range(cls, value: int | str | None) -> int | str | None:
        low, high = TEXTURE_SIDES
        if isinstance(value, int) and not low <= value <= high:
            raise ValueError(f"a texture has between {low} and {high} pixels a side")
        return value

    @field_validator("formats")
    @classmethod
    def _formats_exist(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in FORMATS]
        if unknown:
            raise ValueError(f"formats are among {', '.join(FORMATS)}")
        return list(dict.fromkeys(value))

    @field_validator("negative_prompt")
    @classmethod
    def _negative_is_printable(cls, value: str) -> str:
        return checked_prompt(value) if value.strip() else ""

    def mesh_options(self) -> MeshOptions:
        """The options of the mesh, those of the preset where nothing else is given."""
        base = PRESETS.get(self.preset or "", DEFAULT)
        faces = base.faces if self.faces is None else None if self.faces == "full" else int(self.faces)
        texture = base.texture if self.texture is None else None if self.texture == "none" else int(self.texture)
        return MeshOptions(faces, texture, base.origin, base.printable)

    def sampling(self, default: Sampling) -> Sampling:
        """The options of the denoising, those of `default` where none are given."""
        given: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance}
        return replace(default, **{name: value for name, value in given.items() if value is not None})

    def words(self) -> list[str]:
        """These options on the command line of `instant3d`."""
        given: list[tuple[str, Any]] = [
            ("--seed", self.seed or None),
            ("--steps", self.steps),
            ("--guidance", self.guidance),
            ("--negative", self.negative_prompt or None),
            ("--for", self.preset),
            ("--faces", self.faces),
            ("--texture", self.texture),
            ("--resolution", self.resolution),
            ("--formats", None if self.formats == ["glb"] else ",".join(self.formats)),
        ]
        return [word for name, value in given if value is not None for word in (name, str(value))]


class TextRequest(Options):
    """A job that generates an asset from a prompt."""

    prompt: str = Field(min_length=1, max_length=LONGEST, description="such as `a red fire hydrant`")

    @field_validator("prompt")
    @classmethod
    def _prompt_is_valid(cls, value: str) -> str:
        return checked_prompt(value)

    def options(self) -> Options:
        """The options without the prompt."""
        return Options(**self.model_dump(exclude={"prompt"}))


class ImageOptions(Options):
    """The options of a job that reconstructs an object from images."""

    @model_validator(mode="after")
    def _no_sampling(self) -> ImageOptions:
        if self.steps is not None or self.guidance is not None or self.negative_prompt:
            raise ValueError("steps, guidance and negative_prompt belong to prompts; leave them out")
        return self


class ProgressReport(BaseModel):
    """Progress of a running job: the part it is in, and the steps of that part."""

    part: str
    done: int = 0
    total: int = 0


class FileEntry(BaseModel):
    """A file of a job."""

    name: str
    bytes: int
    media_type: str
    url: str


class Job(BaseModel):
    """A job and its state."""

    id: str
    state: State
    kind: Kind
    prompt: str | None
    options: Options
    created: str
    started: str | None = None
    finished: str | None = None
    position: int | None = Field(None, description="among waiting jobs; 0 is next")
    progress: ProgressReport | None = None
    error: str | None = None
    command: str
    result: dict[str, Any] | None = Field(None, description="the content of result.json")
    files: list[FileEntry] = []


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[Job]
    next: int | None = Field(None, description="`before` of the next older jobs; null: there are none")


class Health(BaseModel):
    """State of the server: its version and workers, the length of its queue, and why workers failed to start."""

    status: Literal["ok"] = "ok"
    version: str
    system: str
    workers: int
    ready: int = Field(description="workers whose networks are loaded")
    queued: int
    running: int
    fault: str | None = Field(None, description="why workers could not load their networks")


class Limits(BaseModel):
    """Bounds of requests."""

    prompt_characters: int = LONGEST
    steps: int = MOST_STEPS
    faces: int = MAX_FACES
    texture: tuple[int, int] = TEXTURE_SIDES
    images: int
    upload_bytes: int
    job_seconds: float


class Models(BaseModel):
    """The weights that are loaded, with defaults and limits."""

    system: str
    weights: dict[str, str] = {}
    steps: int | None = Field(None, description="of denoising where a request gives none")
    guidance: float | None = None
    faces: int | None = DEFAULT.faces
    texture: int | None = DEFAULT.texture
    formats: list[str] = list(FORMATS)
    presets: list[str] = list(PRESETS)
    takes_photos: bool = Field(description="whether photos without cameras are accepted")
    limits: Limits


class Error(BaseModel):
    """An error message, in one sentence."""

    error: str


REFUSALS = (400, 401, 403, 404, 413, 415, 421, 422, 429)
ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": Error} for code in REFUSALS}


class Login(BaseModel):
    """A token, which the page exchanges for a cookie."""

    token: str = Field(max_length=1000)


def checked_prompt(text: str) -> str:
    """Return the prompt as the command line would read it.

    Raises:
        ValueError: It is empty, too long or not printable.
    """
    prompt = from_arguments([text])[0]
    if prompt.error:
        raise ValueError(f"the prompt {prompt.error}")
    return prompt.text


def shell_command(kind: Kind, prompt: str | None, options: Options, system: str) -> str:
    """The command line of `instant3d` that makes the same asset.

    Args:
        kind: "text" or "images"; images are named VIEWS in the command.
        prompt: The prompt of a job of kind "text".
        options: The job's options.
        system: The server's system, such as "two-stage" or "direct".
    """
    what = ["generate", prompt or ""] if kind == "text" else ["reconstruct", "VIEWS"]
    chosen = ["--system", system] if kind == "text" and system != "two-stage" else []
    return shlex.join(["instant3d", *what, "-o", "out", *chosen, *options.words()])
