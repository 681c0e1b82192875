"""`tidegate plugins`: which drivers, sinks and steps there are, and what each can be told."""

import sys
import textwrap
from typing import Any

import click

from gateway.cli._layout import show_json
from gateway.cli._names import RECIPE, complete_plugin


@click.command()
@click.argument("name", required=False, shell_complete=complete_plugin)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--markdown", is_flag=True, help="Print the whole reference of the configuration (docs/config.md).")
def command(name: str | None, as_json: bool, markdown: bool) -> None:
    """List all plugins and recipes, or show the options of NAME.

    A name that is in several families can be written with one: drivers/mqtt. Of a recipe, as recipe:shelly, the whole
    text is printed, to be included as it is or copied and changed.
    """
    from gateway import plugin

    if markdown:
        from gateway.config.handbook import markdown as handbook

        click.echo(handbook(), nl=False)
    elif name is None:
        _list(as_json)
    elif name.startswith(RECIPE):
        _show_recipe(name.removeprefix(RECIPE), as_json)
    else:
        family, _, wanted = name.rpartition("/")
        if family and family not in plugin.FAMILIES:
            raise click.UsageError(f"there is no family {family!r}; there are {', '.join(plugin.FAMILIES)}")
        families = [one for one in plugin.FAMILIES if family in ("", one) and wanted in plugin.names(one)]
        if not families:
            _unknown(wanted, [family] if family else list(plugin.FAMILIES))
        _show(wanted, families, as_json)


def _list(as_json: bool) -> None:
    from gateway import plugin
    from gateway.config.reference import summary

    found = {family: {name: summary(family, name) for name in plugin.names(family)} for family in plugin.FAMILIES}
    found["recipes"] = {f"{RECIPE}{name}": _title(path.read_text("utf-8")) for name, path in plugin.recipes().items()}
    if as_json:
        show_json(found)
        return
    width = max((len(name) for names in found.values() for name in names), default=0)
    for family, names in found.items():
        click.echo(f"{family}:")
        for name, text in names.items():
            click.echo(f"  {name:<{width}}  {text}")


def _title(text: str) -> str:
    """The first line of a recipe, which says what it is for."""
    return text.partition("\n")[0].strip("# ")


def _show_recipe(name: str, as_json: bool) -> None:
    from gateway import plugin

    recipes = plugin.recipes()
    if name not in recipes:
        raise click.UsageError(f"no recipe is called {name!r}; there are {', '.join(recipes)}")
    text = recipes[name].read_text("utf-8")
    if as_json:
        show_json({"name": f"{RECIPE}{name}", "text": text})
    else:
        click.echo(text, nl=False)


def _unknown(name: str, families: list[str]) -> None:
    import difflib

    from gateway import plugin

    known = [one for family in families for one in plugin.names(family)]
    begun = [one for one in known if one.startswith(name)]
    close = begun or difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(dict.fromkeys(known))}"
    click.echo(f"there is no plugin {name!r}; {hint}", err=True)
    sys.exit(2)


def _show(name: str, families: list[str], as_json: bool) -> None:
    from gateway.config.reference import entry

    entries = [entry(family, name) for family in families]
    if as_json:
        told: list[dict[str, Any]] = [
            {**one._asdict(), "options": [option._asdict() for option in one.options]} for one in entries
        ]
        show_json(told)
        return
    for i, one in enumerate(entries):
        click.echo(f"{chr(10) * (i > 0)}{one.family}/{one.name}: {one.summary}")
        for option in one.options:
            facts = [option.kind, option.limits, "required" if option.default is None else ""]
            facts += [f"default {option.default}"] if option.default else []
            click.echo(f"\n  {option.name}  ({'; '.join(fact for fact in facts if fact)})")
            if option.text:
                click.echo(textwrap.indent(textwrap.fill(option.text, 100), "      "))
        if one.example:
            click.echo(f"\nexample:\n\n{textwrap.indent(one.example, '  ')}")
