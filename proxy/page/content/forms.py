"""Forms: what a browser sends, made into what the API takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from proxy.protocol.errors import BadRequest, missing_parameter
from proxy.protocol.params import check_branch_name, check_id

#: What a new answer takes over from the response that it replaces, as far as that says it.
TAKEN_OVER = (
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "reasoning",
    "service_tier", "temperature", "text", "tool_choice", "tools", "top_p", "truncation",
)  # fmt: skip


def text_in(form: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    """Return a field's text with the line ends of a Unix; '' where it is missing. Raises BadRequest."""
    value = form.get(name, "")
    text = value.replace("\r\n", "\n") if isinstance(value, str) else ""
    if name != "message":
        text = text.strip()
    if required and not text.strip():
        raise missing_parameter(name)
    return text


def branch_in(form: Mapping[str, Any], name: str = "branch") -> str:
    """Return the branch that a field names, '' if it names none. Raises BadRequest."""
    value = text_in(form, name)
    return check_branch_name(value, name) if value else ""


def id_in(form: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    """Return the id in a field. Raises BadRequest."""
    value = text_in(form, name, required=required)
    if value:
        check_id(value, name)
    return value


def number_in(form: Mapping[str, Any], name: str) -> float | None:
    """Return the number in a field, None where it is empty. Raises BadRequest."""
    text = text_in(form, name)
    if not text:
        return None
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadRequest(f"Invalid '{name}': expected a number.", param=name, code="invalid_value")
    return number


def message_turn(form: Mapping[str, Any], conversation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the body of a turn that a message begins. conversation: as the API takes it, None for none."""
    body: dict[str, Any] = {
        "model": text_in(form, "model", required=True),
        "input": text_in(form, "message", required=True),
        "stream": True,
    }
    return body | ({"conversation": conversation} if conversation else {})


def renewed(response: Mapping[str, Any] | None, form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a turn in the place of another: its settings, and what the form says. Raises BadRequest."""
    body = {name: value for name in TAKEN_OVER if response and (value := response.get(name)) not in (None, [], {})}
    if model := text_in(form, "model"):
        body["model"] = model
    if (temperature := number_in(form, "temperature")) is not None:
        body["temperature"] = temperature
    return body | {"stream": True}
