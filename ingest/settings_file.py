"""Reads a TOML file into a pydantic model and says in one line what is wrong with it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from ingest.errors import UsageRefused

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the TOML file at `path`; `UsageRefused` when there is none or it does not parse."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise UsageRefused("no such file", where=str(path), mend="give the path of a TOML file") from None
    except IsADirectoryError:
        raise UsageRefused("is a directory", where=str(path), mend="give the TOML file inside it") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, endless numbers and nesting among them
        raise UsageRefused(f"is not TOML: {error}", where=str(path), mend="see https://toml.io") from None
    except OSError as error:
        raise UsageRefused(f"cannot be read: {error.strerror}", where=str(path)) from None


def validated(model: type[Model], tables: Mapping[str, Any], where: str) -> Model:
    """`tables` as a `model`; `UsageRefused` names the first wrong key, and the nearest known one."""
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        raise refusal(model, error, where) from None


def refusal(model: type[BaseModel], error: ValidationError, where: str) -> UsageRefused:
    """The first problem of a pydantic `error` as one line; unknown keys first, since they explain others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    more = f"; {len(problems) - 1} more after it" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return UsageRefused(f"unknown key '{key}'{more}", where=where, mend=_nearest(model, location))
    if problem["type"] == "missing":
        return UsageRefused(f"key '{key}' is missing{more}", where=where, mend="add it")
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return UsageRefused(f"'{key}': {message}{shown}{more}" if key else message, where=where)


def _nearest(model: type[BaseModel], location: list[str]) -> str:
    """A hint for the unknown last part of `location`: the known keys that read most like it."""
    known = _keys_at(model, location[:-1])
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known here: " + ", ".join(sorted(known)) if known else "remove it"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the sub-model that `path` leads to; empty where `path` leaves the models."""
    here: type[BaseModel] = model
    inside_container = False
    for part in path:
        if inside_container:  # the key of a table of models, or the index of a list of them
            inside_container = False
            continue
        field = here.model_fields.get(part)
        inner = None if field is None else _model_of(field.annotation)
        if field is None or inner is None:
            return []
        here = inner
        inside_container = get_origin(field.annotation) in (dict, list, tuple)
    return list(here.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside `annotation`, which may be optional or a union; else None."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
