"""Training runs as processes of their own, and what they logged."""

import os
import signal
import subprocess
import sys
import time


def trainer_settings(run, steps):
    """Of a short quiet run on the CPU that writes a checkpoint every second step and at the end, and logs every one."""
    save = {"every_n_train_steps": 2, "save_top_k": 0, "save_last": True}
    log = {"save_dir": str(run), "flush_logs_every_n_steps": 1}
    return {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": steps,
        "default_root_dir": str(run),
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": log},
        "log_every_n_steps": 1,
        "callbacks": [
            {"class_path": "instant3d.watchers.LastCheckpoint", "init_args": save},
            {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}},
        ],
        "enable_progress_bar": False,
        "limit_val_batches": 0,
        "enable_model_summary": False,
    }


def start(args):
    """`instant3d ARGS...` for training, in a process with one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "instant3d.training", *args],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_at_first_checkpoint(process, run):
    """Kill it, giving it no time to do anything more, as soon as it has written a checkpoint below `run`."""
    deadline = time.time() + 120
    while not list(run.glob("**/last.ckpt")) and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def losses(run):
    """Training loss by step, as text; the newest run's word counts where two logged the same step."""
    found = {}
    for path in sorted(run.glob("**/metrics.csv"), key=lambda path: path.stat().st_mtime):
        head, *rows = path.read_text().splitlines()
        names = head.split(",")
        for row in rows:
            values = dict(zip(names, row.split(","), strict=True))
            if values.get("train/loss"):
                found[int(values["step"])] = values["train/loss"]
    return found
