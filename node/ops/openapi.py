"""The operators' API in OpenAPI 3.1, made from its routes and the shapes that they answer in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from node.ops.operations import Operation
from shared_state.shapes.status import ErrorView

_REFERENCE: Final = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_REFUSALS: Final = {
    "400": "The query or the body means nothing.",
    "401": "The admin token is missing or unknown.",
    "404": "Nothing has that name.",
    "409": "A node cannot run the version, or another one came into force in between; nothing was changed.",
    "502": "The provider does not answer, or not as it should; the code says how.",
    "503": "The shared state is away; `retry-after` says when to ask again.",
}

_Mode = tuple[type[BaseModel], JsonSchemaMode]
_References = Mapping[Any, Any]


def describe(operations: Sequence[Operation], *, version: str) -> dict[str, Any]:
    """The document."""
    wanted: list[_Mode] = [(ErrorView, "serialization"), *_shapes(operations)]
    references, definitions = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = "/ops/" + _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ModelMesh for operators",
            "version": version,
            "description": "What is going on, and orders to models and providers. Times are unix seconds, money is USD.",
        },
        "security": [{"admin": []}],
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {
                "admin": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "MODELMESH_ADMIN_TOKEN; not needed on loopback while none is set.",
                }
            },
        },
    }


def _shapes(operations: Sequence[Operation]) -> Iterator[_Mode]:
    for operation in operations:
        if operation.answer:
            yield operation.answer, "serialization"
        if operation.body:
            yield operation.body, "validation"


def _operation(operation: Operation, references: _References) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "responses": {"200": _answer(operation, references), **_refusals(operation, references)},
    }
    parameters = [*_path_parameters(operation), *_query_parameters(operation)]
    if parameters:
        told["parameters"] = parameters
    if operation.body:
        schema = references[operation.body, "validation"]
        told["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return told


def _id(operation: Operation) -> str:
    """``deactivate_models`` for ``POST models/{name}/deactivate``; where the path has no verb, the method is one."""
    words = re.findall(r"\w+", _PARAMETER.sub("", operation.path))
    if operation.method == "POST" and len(words) > 1:
        return "_".join(reversed(words))
    return "_".join([operation.method.lower(), *words])


def _answer(operation: Operation, references: _References) -> dict[str, Any]:
    if operation.answer is None:
        return {"description": "This document.", "content": {operation.media: {"schema": {"type": "object"}}}}
    schema = references[operation.answer, "serialization"]
    if operation.media == "application/json":
        return {
            "description": _first_line(operation.answer),
            "content": {operation.media: {"schema": schema}},
        }
    each = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"description": _first_line(operation.answer), "content": {operation.media: {"schema": each}}}


def _refusals(operation: Operation, references: _References) -> dict[str, Any]:
    apply = {
        "400": operation.body or operation.query,
        "401": True,
        "404": "{" in operation.path,
        "409": operation.changes_all,
        "502": operation.asks_provider,
        "503": operation.answer,
    }
    content = {"application/json": {"schema": references[ErrorView, "serialization"]}}
    return {
        status: {"description": text, "content": content}
        for status, text in _REFUSALS.items()
        if apply[status]
    }


def _path_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    schema = operation.query.model_json_schema()
    for name, field in schema["properties"].items():
        told = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        if "description" in field:
            told["description"] = field.pop("description")
        yield {**told, "schema": field}


def _first_line(shape: type[BaseModel]) -> str:
    return (shape.__doc__ or "").strip().partition("\n")[0]
