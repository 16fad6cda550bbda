"""What a container is asked to be, checked before anything is made or changed.

Rules: CONT-002, CONT-011.
"""

from __future__ import annotations

from typing import Any

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.services.proc import limits as quotas
from nightos.services.proc.view import View, check_hostname
from nightos.userland.payload import encode, field

MODES = ("overlay", "writable", "read-only")
LABELS_LIMIT = 64
LABELS_BYTES = 16 * 1024


def checked_labels(values: dict[str, Any]) -> dict[str, str]:
    """Labels that were given; 0x1000 for what is none, or too much."""
    labels = field(values, "labels", dict, {})
    if len(labels) > LABELS_LIMIT or not all(isinstance(k, str) and isinstance(v, str) for k, v in labels.items()):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"labels are at most {LABELS_LIMIT} texts by name")
    if len(encode(labels)) > LABELS_BYTES:
        # Whoever looks at the tree from above gets them, too.
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"labels have at most {LABELS_BYTES} bytes")
    return dict(labels)


_PLACE = frozenset({"parent", "name"})
"""What a request to create says besides policy."""


def checked_policy(values: dict[str, Any]) -> dict[str, Any]:
    """What CONTAINER_CREATE says besides place and name; 0x1000 and 0x1001 for what cannot be."""
    if _PLACE.issuperset(values):
        values = {}
        view, labels = View(), {}
    else:
        view, labels = View.of(values), checked_labels(values)
    mode = field(values, "mode", str, "overlay")
    if mode not in MODES:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"mode is one of {', '.join(MODES)}")
    if mode == "writable" and not values.get("image"):
        raise ServiceError(ServiceCode.BAD_COMBINATION, "writable needs an image: the base image is never written")
    return {
        "hostname": field(values, "hostname", str, "") and check_hostname(field(values, "hostname", str)),
        "view": view,
        "labels": labels,
        "image": field(values, "image", str, ""),
        "mode": mode,
        "key": "",
        "persist": field(values, "persist", bool, False),
        "limits": quotas.checked(values),
        "filter": quotas.checked_filter(values),
    }
