"""Speaks the renderer's protocol as `blender_worker` does, without Blender; what a job's `device` says happens."""

import json
import os
import sys
import time


def act(pipe, job):
    what = job["device"]
    if what == "exit":
        print("out of paint", flush=True)
        sys.exit(7)
    if what == "hang":
        time.sleep(600)
    if what == "swell":
        hoard = bytearray(300 << 20)
        hoard[::4096] = b"x" * len(hoard[::4096])
        time.sleep(600)
    if what == "lie":
        pipe.write(json.dumps({"arrays": [["float32", [1 << 40]]]}).encode() + b"\n")
    if what == "babble":
        pipe.write(b"\xff" * (2 << 20))
    if what == "silence":
        pipe.close()
        time.sleep(600)
    if what == "count":
        pipe.write(json.dumps({"arrays": [["uint8", [2, 3]]]}).encode() + b"\n" + bytes(range(6)))
    pipe.flush()


if __name__ == "__main__":
    folder = sys.argv[-2]
    with open(os.path.join(folder, "answers"), "wb") as answers:
        answers.write(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        answers.flush()
        for line in sys.stdin:
            with open(line.strip()) as file:
                act(answers, json.load(file))
