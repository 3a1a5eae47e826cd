"""Files from the Hugging Face Hub, or from its cache on this machine: the one door to it. Knows nothing of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def snapshot(hub_id: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """A local folder with a repository's files that match `patterns`, but none of `ignored`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns), ignore_patterns=list(ignored)))
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"{hub_id} is not a folder, its files are not in this machine's Hugging Face cache, and the Hub cannot be "
            "reached; connect to the network once, or give a folder"
        ) from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{hub_id} is neither a folder nor a model on the Hub that you may read; check its name, or log in with "
            "`hf auth login`"
        ) from None
