"""Is the decoder of two configs one and the same?"""

from __future__ import annotations

from jaxcomp.config import Config, ConfigError
from jaxcomp.data.sources import source_of
from jaxcomp.models.hub import is_id
from jaxcomp.runtime import paths
from jaxcomp.training import identity, manifest


def same(first: Config, other: Config) -> bool:
    """By the hash on the decoder's card, or that it will have: a folder may be named or found, and
    the same decoder may stand in several. A folder without a card counts by its weights."""
    folders = [cfg.folders.get("decoder") for cfg in (first, other)]
    if folders[0] and folders[0] == folders[1]:
        return True
    if not any(folders) and not any(source_of(cfg).facts for cfg in (first, other)):
        # Their hashes are of the text, which a report can do without.
        return first.decoder == other.decoder
    return _mark(first) == _mark(other)


def _mark(cfg: Config) -> str:
    folder = cfg.folders.get("decoder")
    if not folder:
        try:
            return identity.decoder_hash(cfg)
        except ConfigError:  # of text that is not here
            return "unknown"
    if is_id(folder):
        return folder
    found = manifest.weights_identity(paths.path(folder))
    return found.get("config_hash") or ",".join(found["files"]) or folder
