"""A client of `instant3d serve`: `Client("http://127.0.0.1:7860").generate("a red chair").save("chair.glb")`.

It needs httpx alone (`pip install httpx`), neither torch nor the rest of the project's requirements.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ENDED = ("done", "failed", "cancelled")
MOST_RETRIES = 20  # where the queue is full
SECONDS = 60.0  # that an answer may take

OnProgress = Callable[[dict[str, Any]], object]


class ServerError(Exception):
    """The server refused a request, or a job failed; the message is the server's sentence.

    Attributes:
        status: The HTTP status; None for a job that failed.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A connection to a server; also a context manager, which closes it.

    Args:
        url: Of the server.
        token: What the server's --token named, if anything.
        transport: Of httpx, for tests and proxies.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:7860", token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, transport=transport)

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def generate(self, prompt: str, *, on_progress: OnProgress | None = None, **options: Any) -> RemoteJob:
        """Generate an asset and wait for it.

        Args:
            prompt: What to generate.
            on_progress: Called with the job at each of its changes.
            options: As the API's: seed, steps, guidance, faces, texture, formats, preset, ...

        Returns:
            The finished job.

        Raises:
            ServerError: The request was refused, or the job failed.
        """
        return self.submit(prompt, **options).wait(on_progress)

    def submit(self, prompt: str, **options: Any) -> RemoteJob:
        """Queue the generation of an asset; see `generate`."""
        return self._submitted({"json": {"prompt": prompt, **options}})

    def reconstruct(
        self, images: Sequence[str | Path] | str | Path, *, on_progress: OnProgress | None = None, **options: Any
    ) -> RemoteJob:
        """Reconstruct an object from one to four images, or from a zip of a scene folder, and wait for it.

        Args:
            images: Files of images, or one .zip.
            on_progress: Called with the job at each of its changes.
            options: As the API's: faces, texture, formats, preset, resolution, ...

        Returns:
            The finished job.

        Raises:
            ServerError: The request was refused, or the job failed.
        """
        paths = [Path(images)] if isinstance(images, (str, Path)) else [Path(image) for image in images]
        field = "scene" if len(paths) == 1 and paths[0].suffix.lower() == ".zip" else "images"
        with ExitStack() as opened:
            files = [(field, (path.name, opened.enter_context(path.open("rb")))) for path in paths]
            job = self._submitted({"data": {"options": json.dumps(options)}, "files": files})
        return job.wait(on_progress)

    def jobs(self, limit: int = 50) -> list[RemoteJob]:
        """Return the newest jobs."""
        found = self.request("GET", "/api/v1/jobs", params={"limit": limit}).json()
        return [RemoteJob(self, fields) for fields in found["jobs"]]

    def health(self) -> dict[str, Any]:
        """Return the state of the server: its version, its workers and the length of its queue."""
        return self.request("GET", "/api/v1/health").json()

    def models(self) -> dict[str, Any]:
        """Return the weights that are loaded, with defaults and limits."""
        return self.request("GET", "/api/v1/models").json()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request, and return the server's answer.

        Args:
            method: HTTP method, such as "GET".
            path: Path on the server, such as "/api/v1/jobs".
            **arguments: Further arguments of `httpx.Client.request`.

        Raises:
            ServerError: The server refused it, or cannot be reached.
        """
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise ServerError(
                f"{self._http.base_url} cannot be reached ({error}); is `instant3d serve` running?"
            ) from error
        if answer.is_error:
            raise ServerError(_sentence(answer), answer.status_code)
        return answer

    def events(self, path: str) -> Any:
        """Yield the data of a stream of server-sent events."""
        with self._http.stream("GET", path, timeout=None) as stream:
            if stream.is_error:
                stream.read()
                raise ServerError(_sentence(stream), stream.status_code)
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def _submitted(self, body: dict[str, Any]) -> RemoteJob:
        """Send a job, again after a while where the queue is full."""
        for attempt in range(MOST_RETRIES):
            try:
                return RemoteJob(self, self.request("POST", "/api/v1/jobs", **body).json())
            except ServerError as error:
                if error.status != 429 or attempt == MOST_RETRIES - 1 or "files" in body:
                    raise
                time.sleep(1.0 + attempt)
        raise AssertionError("the last attempt returns or raises")


class RemoteJob:
    """A job on the server.

    Args:
        client: The connection.
        fields: The job as the API shows it.
    """

    def __init__(self, client: Client, fields: dict[str, Any]) -> None:
        self.client, self.fields = client, fields

    @property
    def id(self) -> str:
        """The job's id."""
        return self.fields["id"]

    @property
    def state(self) -> str:
        """The state when it was last read: queued, running, done, failed or cancelled."""
        return self.fields["state"]

    @property
    def files(self) -> list[str]:
        """Names of the results."""
        return [entry["name"] for entry in self.fields["files"]]

    def wait(self, on_progress: OnProgress | None = None) -> RemoteJob:
        """Wait until the job is done.

        Raises:
            ServerError: It failed or was cancelled.
        """
        while self.state not in ENDED:
            try:
                for fields in self.client.events(f"/api/v1/jobs/{self.id}/events"):
                    self.fields = fields
                    if on_progress is not None:
                        on_progress(self.fields)
            except httpx.TransportError:
                time.sleep(1.0)  # the server restarts, and goes on with the job
                self.fields = self.client.request("GET", f"/api/v1/jobs/{self.id}").json()
        if self.state != "done":
            raise ServerError(self.fields["error"] or f"the job was {self.state}")
        return self

    def read(self, name: str = "mesh.glb") -> bytes:
        """Return the content of a result."""
        return self.client.request("GET", f"/api/v1/jobs/{self.id}/files/{name}").content

    def save(self, path: str | Path, name: str = "mesh.glb") -> Path:
        """Write a result to a file, and return its path."""
        path = Path(path)
        path.write_bytes(self.read(name))
        return path

    def delete(self) -> None:
        """Cancel the job, or delete it with its files if it has ended."""
        self.client.request("DELETE", f"/api/v1/jobs/{self.id}")


def _sentence(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code} {answer.reason_phrase}"
