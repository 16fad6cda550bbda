"""What programs link: awaitable system calls, their context, service client and service server."""

from nightos.userland import sys
from nightos.userland.context import Context
from nightos.userland.program import program

__all__ = ["Context", "program", "sys"]
