"""What holds for every test: no network, and one thread each, so that two workers share two cores."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)
