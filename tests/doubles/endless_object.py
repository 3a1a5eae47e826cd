"""Rendering that never comes to an end for one object, importable by a new process."""

import time

from data_prep.one_object import Job, render_object


def render(job: Job) -> int:
    """As usual, but for an object named `endless`."""
    if job.item.id == "endless":
        time.sleep(600)
    return render_object(job)
