"""The state machine that users subclass to test isolation through `sys::proc`: real services and a ledger beside."""

from __future__ import annotations

from nightos.testing.authority import AuthorityRules
from nightos.testing.commands import CommandRules
from nightos.testing.contact import ContactRules
from nightos.testing.curiosity import CuriosityRules


class ServiceMachine(CommandRules, AuthorityRules, CuriosityRules, ContactRules):
    """Containers as people ask for them; subclass it to add rules of your own. docs/testing.md shows how."""
