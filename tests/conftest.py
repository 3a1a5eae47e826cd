"""What holds for every test: no network, no GPU, and one thread each, so that two workers share two cores."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported

import torch

torch.set_num_threads(1)
