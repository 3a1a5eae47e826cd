"""Download of files from the Hugging Face Hub, or from its cache on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def snapshot(hub_id: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """Return a local folder with the files of a Hub repository.

    Args:
        hub_id: `owner/name`.
        patterns: File patterns to download.
        ignored: File patterns to leave out.

    Raises:
        FileNotFoundError: There is no such repository, or the Hub cannot be reached and the files are not cached.
    """
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
