"""`tidegate completion`: the script by which a shell completes commands, options and names."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL. To have it always:

    \b
    bash  source <(tidegate completion bash)   in ~/.bashrc
    zsh   source <(tidegate completion zsh)    in ~/.zshrc, after compinit
    fish  tidegate completion fish > ~/.config/fish/completions/tidegate.fish
    """  # noqa: D301 - \b keeps the lines as they are
    from click.shell_completion import get_completion_class

    from gateway.cli import main

    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(main, {}, "tidegate", "_TIDEGATE_COMPLETE").source())
