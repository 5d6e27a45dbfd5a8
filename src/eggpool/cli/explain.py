"""The command `explain`."""

from __future__ import annotations

import click
import msgspec

from eggpool.cli.running import ask, clock_time, duration, table
from eggpool.control.protocol import Explain
from eggpool.domain import Dialect
from eggpool.engine.insight import Explanation


@click.command("explain")
@click.option("--model", required=True, metavar="NAME", help="The model, as a client would name it.")
@click.option("--conversation", metavar="KEY", help="The conversation, as a client would name it.")
@click.option(
    "--client", default="default", show_default=True, metavar="NAME", help="The client whose conversation it is."
)
@click.option(
    "--dialect",
    type=click.Choice([dialect.value for dialect in Dialect]),
    help="What the client speaks; without it, what the model is served in.",
)
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
@click.pass_obj
def explain(
    option: str | None, *, model: str, conversation: str | None, client: str, dialect: str | None, as_json: bool
) -> None:
    """Ask the running pool where a request for a model would go now, and why. Nothing is sent anywhere."""
    question = Explain(model, None if dialect is None else Dialect(dialect), conversation, client)
    told = ask(option, question, Explanation)
    if as_json:
        click.echo(msgspec.json.encode(told))
        return
    if told.would_go_to is None:
        back = "" if told.retry_after_s is None else f"; the first is back in {duration(told.retry_after_s)}"
        click.echo(f"Nobody would take a request for {told.model} ({told.dialect.value}) now{back}.")
    else:
        click.echo(f"A request for {told.model} ({told.dialect.value}) would go to {told.would_go_to} now.")
    if told.bound_to is not None:
        click.echo(f"The conversation was last served by {told.bound_to}: {told.binding}.")
    if told.candidates:
        click.echo("\nIn this order:")
        tried = [(str(one.place), one.account, one.model, _why(one.why)) for one in told.candidates]
        table(("", "ACCOUNT", "MODEL", "WHY"), tried)
    if told.refused:
        click.echo("\nNot at all:")
        refused = [(one.account, one.reason, _until(one.until_ms, one.left_s, told.now_ms)) for one in told.refused]
        table(("ACCOUNT", "REASON", "UNTIL"), refused)


def _until(until_ms: int | None, left_s: float | None, now_ms: int) -> str:
    return "" if until_ms is None or left_s is None else f"{clock_time(until_ms, now_ms)} ({duration(left_s)})"


def _why(told: dict[str, object]) -> str:
    """What the plan says, each thing by its name; what is empty or does not hold is left out."""
    return ", ".join(_fact(name.replace("_", " "), value) for name, value in told.items() if _says(value))


def _says(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _fact(name: str, value: object) -> str:
    if value is True:
        return name
    if isinstance(value, float):
        return f"{name} {value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, dict):
        return f"{name} ({', '.join(_fact(str(inner), one) for inner, one in value.items())})"
    return f"{name} {value}"
