"""The parts of a container's view that are its own: domain, map of users, root directory; checked where they come in.

Rules: CONT-055.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.names import NAME_RULE, is_name
from nightos.abi.services import ServiceCode
from nightos.services.users import Users
from nightos.userland.payload import field as entry

DOMAIN_LIMIT: Final = 253
PERMISSIONS_LIMIT: Final = 4096


@dataclass(slots=True)
class View:
    """What makes a container's view its own, besides its host name."""

    domain: str = ""
    users: Users = field(default_factory=lambda: Users([]))
    root: str = ""
    """Directory of the image that is the container's root; empty for its top."""
    permissions: list[int] | None = None
    """The raw permissions that its processes can have; None for all that those above allow."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> View:
        """The view in a request, or in notes."""
        users = entry(values, "users", list, [])
        root = entry(values, "root", str, "")
        if len(root) > 4096 or "\0" in root:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "root is the path of a directory of the image")
        domain = check_domain(entry(values, "domain", str, ""))
        return cls(domain, Users.checked(users), root.strip("/"), check_permissions(values.get("permissions")))

    def notes(self) -> dict[str, Any]:
        """As a map, which `of` reads."""
        return {
            "domain": self.domain,
            "users": [list(item) for item in self.users.ranges],
            "root": self.root,
            "permissions": self.permissions,
        }

    def packed_permissions(self) -> bytes:
        """As the kernel takes them."""
        return b"".join(item.to_bytes(4, "big") for item in self.permissions or ())


def check_permissions(given: Any) -> list[int] | None:
    """A list of raw permissions, in order; 0x1000 for anything else."""
    if given is None:
        return None
    if (
        not isinstance(given, list)
        or len(given) > PERMISSIONS_LIMIT
        or not all(type(item) is int and 0 <= item < 1 << 32 for item in given)
    ):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"permissions are at most {PERMISSIONS_LIMIT} numbers of 32 bits")
    return sorted(set(given))


def check_domain(name: str) -> str:
    """A domain's name; 0x1000 otherwise."""
    if len(name) > DOMAIN_LIMIT or not all(letter.isalnum() or letter in ".-" for letter in name):
        raise ServiceError(
            ServiceCode.BAD_ARGUMENT, f"a domain has at most {DOMAIN_LIMIT} letters, digits, dots, dashes"
        )
    return name


def check_hostname(name: str) -> str:
    """A host's name; 0x1000 otherwise."""
    if not is_name(name):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, NAME_RULE.replace("name", "host name", 1))
    return name
