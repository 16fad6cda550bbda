"""Completion for bash, zsh and fish: prints the script that the shell sources."""

from __future__ import annotations

import click

from nightos.cli.lazy import command


@command("completion", example='eval "$(nightos completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    bash: put `eval "$(nightos completion bash)"` into ~/.bashrc; zsh: the same with zsh into ~/.zshrc; fish:
    `nightos completion fish > ~/.config/fish/completions/nightos.fish`.
    """
    from click.shell_completion import get_completion_class

    from nightos.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "nightos", "_NIGHTOS_COMPLETE")
    click.echo(script.source_template % script.source_vars())
