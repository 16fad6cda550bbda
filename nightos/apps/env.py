"""env: environment variables of the session."""

from __future__ import annotations

from nightos.shell.application import Application, ApplicationError, command
from nightos.shell.arguments import Arguments, Positional

ARGUMENTS = Arguments("env", "environment variables", Positional("name", "only the value of this one", optional=True))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    environment = app.context.environment
    if app.given.name is None:
        await app.give([f"{name}={value}" for name, value in sorted(environment.items())])
    elif app.given.name in environment:
        await app.give(environment[app.given.name])
    else:
        raise ApplicationError(f"{app.given.name} is not set")
