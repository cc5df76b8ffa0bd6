"""Download models from the hub or a bucket once, only the files that are needed.

Those named by their id on the Hugging Face hub are kept in huggingface_hub's own cache
(`$HF_HOME`); gated ones need `hf auth login` first. Those in a bucket (gs://bucket/folder) are kept
in `$JAXCOMP_CACHE/weights`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from jaxcomp.runtime import network
from jaxcomp.runtime.mirror import local_copy
from jaxcomp.runtime.paths import is_remote

FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json")
CARD = "card.json"  # of a folder that `jaxcomp pretrain` made
# As the hub has it: no part begins with a dot, as those of a path may (../folder).
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", re.ASCII)


class HubError(ValueError):
    """A model cannot be had from the hub; the message names it and the fix."""


def is_id(name: str) -> bool:
    """Is it `owner/name` or `owner/name@revision`, and no folder that exists?"""
    return bool(_ID.fullmatch(name)) and not os.path.exists(os.path.expanduser(name))


def folder_of(name: str) -> Path:
    """The folder `name`, or the copy of the hub id or gs:// folder `name`, downloaded if need be.

    Raises HubError where the hub does not give it: gated, unknown, or no network and not cached;
    StorageError where the bucket does not.
    """
    if is_remote(name):
        return local_copy(name, (*FILES, CARD))
    if not is_id(name):
        return Path(name).expanduser()
    # Inside: it takes a third of a second to import, and most runs name no hub id.
    from huggingface_hub import constants, errors, snapshot_download

    repo, _, revision = name.partition("@")
    online = constants.HF_HUB_OFFLINE or network.reachable(constants.ENDPOINT)
    try:
        found = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=list(FILES),
            local_files_only=not online,
        )
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name} is gated: accept its licence on its page, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise HubError(
            f"{name}: no such folder, and the hub has no such model or revision (a private one "
            "needs `hf auth login`)"
        ) from error
    except errors.HFValidationError as error:
        raise HubError(f"{name}: no such folder, and no hub id ({_first_line(error)})") from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        why = _first_line(error) if online else f"{constants.ENDPOINT} does not answer"
        raise HubError(
            f"{name}: no such folder, and it cannot be downloaded ({why}); check the network, or "
            "give a folder that holds it"
        ) from error
    return Path(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
