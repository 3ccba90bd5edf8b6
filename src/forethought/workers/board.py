"""Where workers write how far they are: the cluster's own key-value store.

A worker is at work on its part and answers no call until it is done; to have it answer beside its
work would take it out of its process's main thread, which not every engine bears.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from forethought.progress.under_way import Drawing

NAMESPACE = b"forethought"


def write(place: str, drawing: Drawing) -> None:
    """Replace what stands there."""
    from ray.experimental.internal_kv import _internal_kv_put

    value = json.dumps(asdict(drawing)).encode()
    _internal_kv_put(place.encode(), value, overwrite=True, namespace=NAMESPACE)


def read(place: str) -> Drawing | None:
    """What was written there last, if anything."""
    from ray.experimental.internal_kv import _internal_kv_get

    value = _internal_kv_get(place.encode(), namespace=NAMESPACE)
    return Drawing(**json.loads(value)) if value else None


def clear(place: str) -> None:
    """Nothing stands there any more."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(place.encode(), namespace=NAMESPACE)
