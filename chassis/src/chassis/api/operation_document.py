"""The operation object of a handler's method in the OpenAPI document: parameters, body and responses."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from ..problem import PROBLEM_JSON, phrase
from .access import Requirement
from .idempotency import HEADER, MAX_KEY_LENGTH, PROBLEMS, REPLAYED
from .operation import Operation
from .parameters import Parameter
from .routing import Described
from .schemas import REF_TEMPLATE, Schemas

URL_ENCODED_TYPE = "application/x-www-form-urlencoded"


def described_operation(place: Described, schemas: Schemas, schemes: Mapping[str, object]) -> dict[str, Any]:
    """The operation object of a method. `schemes` are the names of the security schemes of protected ones."""
    operation = place.operation
    slug = re.sub(r"\W+", "_", place.path).strip("_")
    described: dict[str, Any] = {
        "operationId": f"{place.method.lower()}_{slug or 'root'}",
        "tags": [_tag(place.path)],
    }
    summary, _, description = operation.docstring.partition("\n")
    if summary:
        described["summary"] = summary.rstrip(".")
    if description.strip():
        described["description"] = description.strip()
    if place.requirement is not None:
        described["security"] = _security(place.requirement, schemes)
    described |= operation.documentation.members
    parameters = _parameters(place, schemas)
    if parameters:
        described["parameters"] = parameters
    body = _request_body(operation, schemas)
    if body is not None:
        described["requestBody"] = body
    described["responses"] = _responses(place, bool(parameters), schemas)
    return described


def _security(requirement: Requirement, schemes: Mapping[str, object]) -> list[dict[str, list[str]]]:
    """An alternative for each scheme. OpenAPI 3.1 allows the names of scopes for every type of scheme."""
    return [] if requirement.is_public else [{name: sorted(requirement.scopes)} for name in schemes]


def _parameters(place: Described, schemas: Schemas) -> list[dict[str, Any]]:
    operation = place.operation
    in_path = {
        parameter.name: parameter
        for parameter in operation.parameters
        if parameter.where in ("path", "query") and not parameter.members
    }
    # A path parameter without an argument, which the method reads from the request, is a string.
    parameters = [
        _parameter("path", name, in_path[name], schemas)
        if name in in_path
        else {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in place.names
    ]
    for parameter in operation.parameters:
        if parameter.where not in ("query", "header", "cookie"):
            continue
        if parameter.members:
            parameters += _group(parameter, schemas)
        elif parameter.where != "query" or parameter.name not in place.names:
            parameters.append(_parameter(parameter.where, parameter.name, parameter, schemas))
    names = {str(parameter["name"]).lower() for parameter in parameters}
    if operation.idempotency is not None and HEADER.lower() not in names:
        schema = {
            "type": "string",
            "maxLength": MAX_KEY_LENGTH,
            "description": "A new value for each request, such as a UUID. Retries with the same value run once.",
        }
        parameters.append(_described_parameter("header", HEADER, schema, required=operation.idempotency.required))
    return parameters


def _parameter(where: str, name: str, parameter: Parameter, schemas: Schemas) -> dict[str, Any]:
    schema = dict(schemas.of(parameter.adapter, "validation"))
    if not (where == "path" or parameter.is_required):
        schema["default"] = TypeAdapter(Any).dump_python(parameter.default, mode="json")
    return _described_parameter(where, name, schema, required=where == "path" or parameter.is_required)


def _group(parameter: Parameter, schemas: Schemas) -> list[dict[str, Any]]:
    """A parameter for each field of a group's model."""
    properties = schemas.resolved(parameter.adapter, "validation").get("properties", {})
    return [
        _described_parameter(parameter.where, member.name, dict(properties[member.key]), required=member.is_required)
        for member in parameter.members
    ]


def _described_parameter(where: str, name: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "in": where, "required": required}
    for member in ("description", "deprecated"):
        if member in schema:
            described[member] = schema.pop(member)
    if where == "header" and schema.get("type") == "array":
        described["style"] = "simple"
    described["schema"] = schema
    return described


def _request_body(operation: Operation, schemas: Schemas) -> dict[str, Any] | None:
    content: dict[str, Any]
    if operation.has_form:
        form = _form(operation, schemas)
        types = ["multipart/form-data"] if operation.has_files else [URL_ENCODED_TYPE, "multipart/form-data"]
        content = {media_type: {"schema": form} for media_type in types}
        required = bool(form.get("required"))
    elif operation.body_is_raw or operation.streams_body:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        required = not operation.body_is_optional
    elif operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.body, "validation")}}
        required = not operation.body_is_optional
    else:
        return None
    examples = operation.documentation.request_examples
    if examples:
        for described in content.values():
            described["examples"] = _examples(examples)
    return {"required": required, "content": content}


def _form(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in operation.parameters:
        if parameter.where != "form":
            continue
        if parameter.members:
            fields = schemas.resolved(parameter.adapter, "validation").get("properties", {})
            properties |= {member.name: fields[member.key] for member in parameter.members}
            required += [member.name for member in parameter.members if member.is_required]
            continue
        schema = dict(schemas.of(parameter.adapter, "validation"))
        if parameter.is_required:
            required.append(parameter.name)
        else:
            schema["default"] = TypeAdapter(Any).dump_python(parameter.default, mode="json")
        properties[parameter.name] = schema
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _responses(place: Described, has_parameters: bool, schemas: Schemas) -> dict[str, dict[str, Any]]:
    operation, results = place.operation, place.operation.results
    success: dict[str, Any] = {"description": phrase(results.status)}
    if results.adapter is not None and results.has_content:
        content: dict[str, Any] = {"schema": schemas.of(results.adapter, "serialization")}
        if operation.documentation.response_examples:
            content["examples"] = _examples(operation.documentation.response_examples)
        success["content"] = dict.fromkeys(("application/json", *operation.encoders), content)
    if results.media_types:
        success["content"] = success.get("content", {}) | {name: {} for name in results.media_types}
    if results.headers:
        success["headers"] = {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in results.headers.items()
        }
    responses = {str(results.status): success}
    for status, model in results.others.items():
        other: dict[str, Any] = {"description": phrase(status)}
        if model is not None:
            other["content"] = {"application/json": {"schema": schemas.of(model, "serialization")}}
        responses[str(status)] = other
    if operation.idempotency is not None:
        success.setdefault("headers", {})[REPLAYED] = {
            "description": "`true` if this is the stored response to an earlier request.",
            "schema": {"type": "string"},
        }
    for status, description in sorted(_errors(place, has_parameters).items()):
        responses.setdefault(str(status), _problem(description))
    responses["default"] = _problem("Any other error.")
    return responses


def _errors(place: Described, has_parameters: bool) -> dict[int, str]:
    """The statuses of problems, with their descriptions."""
    operation, requirement = place.operation, place.requirement
    errors: dict[int, str] = dict(operation.results.errors)
    if operation.has_form:
        errors.setdefault(400, "The form is invalid.")
        errors.setdefault(413, "The form is too large.")
        errors.setdefault(415, "Content-Type is not that of a form, or the body is compressed.")
    elif operation.body_is_raw or operation.streams_body:
        errors.setdefault(413, "The body is too large.")
    elif operation.body is not None:
        errors.setdefault(400, "The body is not valid JSON.")
        errors.setdefault(413, "The body is too large.")
        errors.setdefault(415, "Content-Type is not application/json, or the body is compressed.")
    if (operation.body is not None and not operation.body_is_raw) or operation.has_form or has_parameters:
        errors.setdefault(422, "The request has invalid values; `errors` lists them with the reasons.")
    if requirement is not None and not requirement.is_public:
        errors.setdefault(401, "The credentials are missing or invalid.")
        if requirement.scopes or requirement.roles:
            errors[403] = f"{errors.get(403, '')} The credentials need {requirement}.".strip()
    if place.has_rate_limit:
        errors.setdefault(429, "The caller has sent too many requests; `Retry-After` has the seconds to wait.")
    if operation.idempotency is not None:
        errors |= {status: f"{errors.get(status, '')} {text}".strip() for status, text in PROBLEMS.items()}
    return errors


def _examples(examples: Mapping[str, Any]) -> dict[str, Any]:
    to_json = TypeAdapter(Any).dump_python
    return {name: {"value": to_json(value, mode="json", by_alias=True)} for name, value in examples.items()}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": REF_TEMPLATE.format(model="Problem")}
    return {"description": description, "content": {PROBLEM_JSON.decode(): {"schema": schema}}}


def _tag(path: str) -> str:
    literals = [part for part in path.split("/") if part and "{" not in part]
    return literals[0] if literals else "root"
