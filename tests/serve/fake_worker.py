"""A quick worker that speaks the protocol of `instant3d.serve.worker`; prompts choose what happens."""

import json
import os
import sys
import threading
import time
from pathlib import Path

CUBE = Path(__file__).parent / "cube.glb"
cancelled, batches, ready = set(), [], threading.Condition()


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def read():
    for line in sys.stdin:
        message = json.loads(line)
        with ready:
            if "cancel" in message:
                cancelled.add(message["cancel"])
            else:
                batches.append(message["jobs"])
            ready.notify()
    os._exit(0)


def make(job, together):
    folder, prompt = Path(job["folder"]), job["prompt"] or ""
    if "crash" in prompt:
        os._exit(9)
    if "bad" in prompt:
        emit("failed", id=job["id"], error="the asset has no surface")
        return
    for step in range(50 if "slow" in prompt else 2):
        if job["id"] in cancelled:
            return
        emit("progress", id=job["id"], part="denoise", done=step, total=50)
        time.sleep(0.1 if "slow" in prompt else 0.01)
    if "huge" in prompt:
        keep = bytearray(512 * 2**20)
        time.sleep(5)
        del keep
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "made.log").open("a") as log:
        log.write(job["id"] + "\n")
    record = {"prompt": prompt, "together": together, "files": ["mesh.glb"], "source": job.get("source")}
    (folder / "mesh.glb").write_bytes(CUBE.read_bytes() if CUBE.exists() else b"glTF")
    (folder / "result.json").write_text(json.dumps(record))
    emit("done", id=job["id"], result=record)


sys.stdin.readline()
threading.Thread(target=read, daemon=True).start()
emit("ready", weights={"stage1": "fake"})
while True:
    with ready:
        ready.wait_for(lambda: batches)
        jobs = batches.pop(0)
    for each in jobs:
        make(each, len(jobs))
    emit("idle")
