"""Blender add-on: generates an asset by a running `instant3d serve` and imports it (Preferences, Add-ons, Install)."""

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import bpy

bl_info = {
    "name": "instant3d",
    "author": "the instant3d contributors",
    "version": (0, 2, 0),
    "blender": (4, 2, 0),
    "location": "3D View > Sidebar > instant3d",
    "description": "Generate a textured 3D asset from a prompt by a local instant3d server",
    "category": "Import-Export",
}
EVERY_SECONDS = 0.5
ANSWER_SECONDS = 30
ENDED = ("done", "failed", "cancelled")


class ServerError(Exception):
    """The server refused a request, or the job failed; the message is the server's sentence."""


def request(url, token="", body=None):
    """Send a request, with a body as JSON, and return the bytes of the answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=ANSWER_SECONDS) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        try:
            sentence = json.loads(error.read())["error"]
        except (ValueError, KeyError, TypeError):
            sentence = f"the server answered {error.code}"
        raise ServerError(sentence) from error
    except OSError as error:
        raise ServerError(f"{url} cannot be reached ({error}); is `instant3d serve` running?") from error


def generate(server, prompt, seed, faces, token="", on_part=lambda part: None):
    """Generate an asset and return its .glb file, in a temporary folder."""
    api = f"{server.rstrip('/')}/api/v1/jobs"
    job = json.loads(request(api, token, {"prompt": prompt, "seed": seed, "faces": faces}))
    while job["state"] not in ENDED:
        time.sleep(EVERY_SECONDS)
        job = json.loads(request(f"{api}/{job['id']}", token))
        on_part((job["progress"] or {}).get("part", job["state"]))
    if job["state"] != "done":
        raise ServerError(job["error"] or f"the job was {job['state']}")
    path = Path(tempfile.mkdtemp(prefix="instant3d-"), "mesh.glb")
    path.write_bytes(request(f"{api}/{job['id']}/files/mesh.glb", token))
    return path


class Instant3DPreferences(bpy.types.AddonPreferences):
    """Where the server is."""

    bl_idname = __name__
    server: bpy.props.StringProperty(name="Server", default="http://127.0.0.1:7860")
    token: bpy.props.StringProperty(name="Token", subtype="PASSWORD", description="what its --token named, if anything")

    def draw(self, context):
        """Draw the two fields."""
        self.layout.prop(self, "server")
        self.layout.prop(self, "token")


class Instant3DSettings(bpy.types.PropertyGroup):
    """What the panel asks for."""

    prompt: bpy.props.StringProperty(name="Prompt", default="a red fire hydrant")
    seed: bpy.props.IntProperty(name="Seed", default=0, min=0)
    faces: bpy.props.IntProperty(name="Faces", default=20_000, min=100, max=500_000)
    status: bpy.props.StringProperty()


class Instant3DGenerate(bpy.types.Operator):
    """Generate an asset and import it at the 3D cursor."""

    bl_idname = "instant3d.generate"
    bl_label = "Generate"

    def execute(self, context):
        """Wait for the asset: for scripts."""
        try:
            self._import(context, self._generated(context.scene.instant3d, context))
        except ServerError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}

    def invoke(self, context, event):
        """Generate in a thread, so that Blender stays usable."""
        self._result = None
        settings = context.scene.instant3d
        asked = (settings.prompt, settings.seed, settings.faces, *server_of(context))
        self._thread = threading.Thread(target=self._work, args=asked, daemon=True)
        self._part = "waiting"
        self._thread.start()
        self._timer = context.window_manager.event_timer_add(EVERY_SECONDS, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        """Show the progress, and import the asset when it is there."""
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        context.scene.instant3d.status = self._part
        if self._thread.is_alive():
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        context.scene.instant3d.status = ""
        if isinstance(self._result, Path):
            self._import(context, self._result)
            return {"FINISHED"}
        self.report({"ERROR"}, str(self._result))
        return {"CANCELLED"}

    def _work(self, prompt, seed, faces, server, token):
        try:
            self._result = generate(server, prompt, seed, faces, token, on_part=self._show)
        except ServerError as error:
            self._result = error

    def _show(self, part):
        self._part = part

    def _generated(self, settings, context):
        server, token = server_of(context)
        return generate(server, settings.prompt, settings.seed, settings.faces, token)

    def _import(self, context, path):
        bpy.ops.import_scene.gltf(filepath=str(path))
        for item in context.selected_objects:
            if item.parent is None:
                item.location = context.scene.cursor.location
        path.unlink()
        path.parent.rmdir()


class Instant3DPanel(bpy.types.Panel):
    """The panel in the sidebar of the 3D view."""

    bl_label, bl_category = "instant3d", "instant3d"
    bl_space_type, bl_region_type = "VIEW_3D", "UI"

    def draw(self, context):
        """Draw the fields and the button."""
        settings = context.scene.instant3d
        for name in ("prompt", "seed", "faces"):
            self.layout.prop(settings, name)
        self.layout.operator(Instant3DGenerate.bl_idname)
        if settings.status:
            self.layout.label(text=f"{settings.status} ...")


CLASSES = (Instant3DPreferences, Instant3DSettings, Instant3DGenerate, Instant3DPanel)


def server_of(context):
    """Return the address and the token of the preferences, or their defaults where the add-on runs as a script."""
    found = context.preferences.addons.get(__name__)
    return (found.preferences.server, found.preferences.token) if found else ("http://127.0.0.1:7860", "")


def register():
    """Add the classes and the settings of scenes."""
    for each in CLASSES:
        bpy.utils.register_class(each)
    bpy.types.Scene.instant3d = bpy.props.PointerProperty(type=Instant3DSettings)


def unregister():
    """Remove them."""
    del bpy.types.Scene.instant3d
    for each in reversed(CLASSES):
        bpy.utils.unregister_class(each)


if __name__ == "__main__":
    register()
