"""Commands and their help: `-h` everywhere, commands and options in groups, examples, the default command."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

DEFAULT = "check"

GROUPS = {
    "Look": ("check", "facts"),
    "Decide": ("plan",),
    "Do": ("speedrun", "apply", "render", "build-torch", "build-rustbpe"),
    "Help": ("selftest", "completion"),
}
"""Where commands stand in the list of them; those that are in no group come last."""

HELP_NAMES = ["-h", "--help"]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def option(
    *names: str, group: str = "Options", **settings: Any
) -> Callable[[Decorated], Decorated]:
    """As `click.option`, in a group of the help page."""
    return click.option(*names, cls=Option, group=group, **settings)


class Option(click.Option):
    """An option that knows under which heading it is shown."""

    def __init__(self, *args: Any, group: str = "Options", **settings: Any) -> None:
        self.group = group
        super().__init__(*args, **settings)


class Command(click.Command):
    """A command whose help shows its options by group, and examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        self.examples = tuple(examples)
        super().__init__(*args, **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options by group, in the order in which groups first come; --help last."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Examples, as they are typed."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {ctx.find_root().info_name} {example}\n")


class DefaultsToCheck(click.Group):
    """The bare command, with options or without, is `check`."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `check` before the first word that is neither a command nor an option of the group."""
        position = 0
        takes_value = {o for p in self.params for o in p.opts if not getattr(p, "is_flag", False)}
        own = {o for p in self.params for o in p.opts} | set(HELP_NAMES)
        while position < len(args) and args[position].partition("=")[0] in own:
            position += 2 if args[position] in takes_value else 1
        rest = args[position:]
        # where a word is being completed, all commands are offered, not only the default's options
        if not rest and not {*HELP_NAMES, "--version"} & set(args) and not ctx.resilient_parsing:
            args = [*args, DEFAULT]
        elif rest and rest[0].startswith("-") and rest[0] != "--":
            args = [*args[:position], DEFAULT, *rest]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; what is no command is told apart from a slip of the finger."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.commands, n=2, cutoff=0.5)
            cure = f"did you mean {' or '.join(near)}?" if near else "-h lists them."
            raise click.UsageError(f"There is no command {name!r}; {cure}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and own options, and the options of the default command."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            default = self.commands[DEFAULT]
            known = {item.value for item in items}
            with default.make_context(DEFAULT, [], parent=ctx, resilient_parsing=True) as inner:
                found = default.shell_complete(inner, incomplete)
            items += [item for item in found if item.value not in known]
        return items

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands by group, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands by what a person wants to do."""
        listed = [name for names in GROUPS.values() for name in names]
        groups = GROUPS | {"More": tuple(sorted(set(self.commands) - set(listed)))}
        width = max(map(len, self.commands))
        for title, names in groups.items():
            rows = [(n.ljust(width), _brief(self.commands[n])) for n in names if n in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _brief(command: click.Command) -> str:
    """What the list of commands says of one: its first sentence, whole."""
    text = command.short_help or (command.help or "").partition("\n\n")[0]
    return " ".join(text.split()).removesuffix(".")


def _write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
    for title, records in groups.items():
        with formatter.section(title):
            formatter.write_dl(records)
