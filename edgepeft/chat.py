"""Chat templates, rendered as transformers renders them. Needs the jinja2 package of the extra `text`."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgepeft.errors import DataError

#: What transformers always hands to a template; some ask whether they are none.
_ALWAYS: Mapping[str, Any] = {"tools": None, "documents": None}


class _GenerationTag(Extension):
    """`{% generation %}` marks what the assistant says; the text comes out as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(template: str, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """Renders a chat template, in a sandbox.

    Raises:
        DataError: The template refused the messages, or is not valid.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: dt.datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(template).render(_ALWAYS, messages=list(messages), **values)
    except Exception as error:  # a template can do anything that an expression can
        raise DataError(f"the chat template refused the messages: {error}") from error


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - a template may give it by place
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """As transformers has it: jinja2's own escapes HTML's characters."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
