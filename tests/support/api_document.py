"""An OpenAPI document with everything that `/docs` shows, and a service that echoes what it is sent."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

HTML = "<img src=x onerror=\"document.title='taken over'\">"
STRING: dict[str, Any] = {"type": "string"}
FILE: dict[str, Any] = {"type": "string", "format": "binary"}
OK: dict[str, Any] = {"200": {"description": "What was sent.", "content": {"application/json": {"schema": {}}}}}


def body(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A request body that is required; `content` is by media type."""
    return {"required": True, "content": content}


def form(required: list[str], **properties: Any) -> dict[str, Any]:
    """The schema of a form."""
    return {"schema": {"type": "object", "properties": properties, "required": required}}


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Parcels",
        "version": "2",
        "description": f"Sends `parcels`. {HTML}",
        "contact": {"name": "Post", "url": "javascript:document.title='taken over'"},
    },
    "servers": [{"url": "/"}, {"url": "/{stage}", "variables": {"stage": {"default": "v2"}}, "description": "Next"}],
    "tags": [{"name": "parcels", "description": "What is sent."}, {"name": "labels"}],
    "security": [{"bearer": []}],
    "paths": {
        "/parcels": {
            "get": {
                "tags": ["parcels", "labels"],
                "summary": "List parcels",
                "operationId": "list_parcels",
                "parameters": [
                    {"name": "state", "in": "query", "schema": {"enum": ["new", "sent"]}},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": STRING}},
                    {"name": "kind", "in": "query", "schema": {"type": "array", "items": {"enum": ["a", "b"]}}},
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array", "items": STRING}},
                    {"name": "page[size]", "in": "query", "schema": {"type": "integer", "default": 20}},
                    {"name": "old", "in": "query", "deprecated": True, "schema": STRING},
                    {"name": "X-Tenant", "in": "header", "schema": STRING, "examples": {"one": {"value": "acme"}}},
                    {"name": "session", "in": "cookie", "schema": STRING},
                ],
                "responses": {
                    "200": {
                        "description": "Parcels.",
                        "headers": {"Link": {"description": "The next page.", "schema": STRING}},
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/Parcel"},
                                "examples": {"small": {"summary": "A small one", "value": {"weight": 1}}},
                            },
                            "text/csv": {"schema": STRING, "example": "weight\n1"},
                        },
                    },
                    "304": {"description": "Not modified."},
                    "404": {"description": f"None. {HTML}"},
                },
            },
            "post": {
                "tags": ["parcels"],
                "summary": "Send a parcel",
                "operationId": "send_parcel",
                "security": [{"basic": []}],
                "requestBody": body(
                    {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/Parcel"},
                            "examples": {"light": {"value": {"weight": 1}}, "heavy": {"value": {"weight": 90}}},
                        },
                        "text/plain": {"schema": STRING, "example": "1 kg"},
                        "application/x-www-form-urlencoded": form(["weight"], weight={"type": "integer", "minimum": 3}),
                    }
                ),
                "responses": OK,
            },
        },
        "/parcels/{parcel_id}/photos": {
            "put": {
                "tags": ["parcels"],
                "summary": "Add photos",
                "operationId": "add_photos",
                "parameters": [{"name": "parcel_id", "in": "path", "required": True, "schema": {"type": "integer"}}],
                "security": [{"key": []}],
                "requestBody": body(
                    {
                        "multipart/form-data": form(
                            ["cover"], title=STRING, cover=FILE, more={"type": "array", "items": FILE}
                        )
                    }
                ),
                "responses": OK,
            }
        },
        "/scan": {
            "post": {
                "tags": ["labels"],
                "summary": "Scan a label",
                "operationId": "scan",
                "deprecated": True,
                "security": [{"login": ["scan"]}, {}],
                "requestBody": body({"application/octet-stream": {"schema": FILE}}),
                "responses": OK,
            }
        },
        "/label": {
            "get": {
                "tags": ["labels"],
                "summary": "Download",
                "operationId": "download",
                "security": [{"crumb": []}],
                "responses": {"200": {"description": "A file.", "content": {"application/pdf": {"schema": FILE}}}},
            }
        },
        "/events": {
            "get": {
                "tags": ["labels"],
                "summary": "Follow",
                "operationId": "follow",
                "security": [],
                "responses": {"200": {"description": "Events.", "content": {"text/event-stream": {"schema": STRING}}}},
            }
        },
    },
    "components": {
        "schemas": {
            "Parcel": {
                "type": "object",
                "description": HTML,
                "properties": {"weight": {"type": "integer"}, "colour": {"deprecated": True, "type": "string"}},
            }
        },
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            "basic": {"type": "http", "scheme": "basic"},
            "key": {"type": "apiKey", "in": "query", "name": "api_key"},
            "crumb": {"type": "apiKey", "in": "cookie", "name": "crumb"},
            "login": {
                "type": "oauth2",
                "flows": {
                    "authorizationCode": {
                        "authorizationUrl": "https://login.example/authorize",
                        "tokenUrl": "https://login.example/token",
                        "scopes": {"scan": "Scan labels."},
                    }
                },
            },
            "openid": {"type": "openIdConnect", "openIdConnectUrl": "https://login.example/.well-known"},
        },
    },
}


async def _document(_request: Request) -> Response:
    return JSONResponse(DOCUMENT)


async def _echo(request: Request) -> Response:
    content = await request.body()
    kind = request.headers.get("content-type", "")
    sent = {
        "path": request.url.path,
        "query": request.url.query,
        "type": kind,
        "authorization": request.headers.get("authorization"),
        "tenant": request.headers.get("x-tenant"),
        "cookies": request.cookies,
        "body": content.decode("latin-1"),
    }
    return JSONResponse(sent, headers={"x-seen": "yes"})


async def _label(_request: Request) -> Response:
    return Response(
        bytes(range(256)),
        media_type="application/pdf",
        headers={"content-disposition": "attachment; filename=label.pdf"},
    )


async def _events(_request: Request) -> Response:
    async def events() -> AsyncIterator[str]:
        yield f"data: {json.dumps('first')}\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(events(), media_type="text/event-stream")


ROUTES = [
    Route("/openapi.json", _document),
    Route("/label", _label),
    Route("/events", _events),
    *(Route(path, _echo, methods=["GET", "POST", "PUT"]) for path in ("/parcels", "/v2/parcels", "/scan")),
    Route("/parcels/{parcel_id}/photos", _echo, methods=["PUT"]),
]
