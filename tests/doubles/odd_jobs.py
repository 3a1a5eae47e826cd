"""Work that goes well or badly on request, importable by a new process."""

import os
import time


def work(job: str) -> str:
    if job == "hang":
        time.sleep(60)
    if job == "crash":
        os._exit(7)
    if job == "refuse":
        raise ValueError("it is not to my taste")
    return job.upper() + os.environ.get("ODD_JOBS_MARK", "")


def prepare() -> None:
    os.environ["ODD_JOBS_MARK"] = "!"
