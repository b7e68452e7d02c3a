"""Forms, uploaded files, and raw bodies."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from pydantic import BaseModel, Field
from starlette.requests import Request

from chassis import Form, Handler, Route, UploadFile

from .support.service import serve, until


class Login(BaseModel):
    name: str = Field(min_length=1)
    remember: bool = False


class Fields(Handler):
    """Single fields."""

    async def post(
        self,
        name: Annotated[str, Form()],
        age: Annotated[int | None, Form()] = None,
        tag: Annotated[list[str] | None, Form()] = None,
    ) -> dict[str, Any]:
        return {"name": name, "age": age, "tag": tag}


class Logins(Handler):
    """A group of fields."""

    async def post(self, login: Annotated[Login, Form()]) -> Login:
        return login


class Files(Handler):
    """Uploaded files."""

    def __init__(self) -> None:
        self.files: list[UploadFile] = []

    async def post(
        self, file: UploadFile, others: list[UploadFile] | None = None, note: Annotated[str, Form()] = ""
    ) -> dict[str, Any]:
        self.files = [file, *(others or [])]
        content = await file.read()
        on_disk = bool(getattr(file.file, "_rolled", False))
        return {
            "name": file.filename,
            "type": file.content_type,
            "size": len(content),
            "others": [one.filename for one in others or []],
            "note": note,
            "on_disk": on_disk,
        }

    async def put(self, file: UploadFile | None = None) -> str:
        return "none" if file is None else str(file.filename)


class Raw(Handler):
    """Raw bodies."""

    async def post(self, body: bytes) -> int:
        return len(body)

    async def put(self, body: AsyncIterator[bytes]) -> list[int]:
        return [len(piece) async for piece in body if piece]

    async def patch(self, request: Request, body: Annotated[bytes | None, Field(max_length=3)] = None) -> str:
        return f"{request.headers.get('content-type')} {body!r}"


FILES = Files()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route("/fields", Fields()),
        Route("/logins", Logins()),
        Route("/files", FILES),
        Route("/raw", Raw()),
    ]
    async with serve(*routes, max_body_bytes=5_000_000) as service:
        yield service.client


async def test_fields_of_a_url_encoded_form_are_bound(client: httpx.AsyncClient) -> None:
    response = await client.post("/fields", data={"name": "Ada Löwe", "age": "36", "tag": ["a", "b"]})
    assert response.json() == {"name": "Ada Löwe", "age": 36, "tag": ["a", "b"]}


async def test_fields_of_a_multipart_form_are_bound(client: httpx.AsyncClient) -> None:
    fields = [("name", (None, "Ada")), ("tag", (None, "a")), ("tag", (None, "b"))]
    response = await client.post("/fields", files=fields)
    assert response.json() == {"name": "Ada", "age": None, "tag": ["a", "b"]}


async def test_empty_field_with_a_default_counts_as_not_sent(client: httpx.AsyncClient) -> None:
    response = await client.post("/fields", data={"name": "", "age": ""})
    assert response.json() == {"name": "", "age": None, "tag": None}


async def test_group_of_fields_is_a_model(client: httpx.AsyncClient) -> None:
    response = await client.post("/logins", data={"name": "Ada", "remember": "on"})
    assert response.json() == {"name": "Ada", "remember": True}


@pytest.mark.parametrize(
    ("path", "data", "names"),
    [
        ("/fields", {"age": "x"}, {"name", "age"}),
        ("/fields", {"name": ["a", "b"]}, {"name"}),
        ("/logins", {"name": ""}, {"name"}),
        ("/logins", {}, {"name"}),
    ],
)
async def test_invalid_field_is_422(
    client: httpx.AsyncClient, path: str, data: dict[str, Any], names: set[str]
) -> None:
    response = await client.post(path, data=data, headers={"content-type": "application/x-www-form-urlencoded"})
    errors = response.json()["errors"]
    assert response.status_code == 422
    assert {(error["in"], error["name"]) for error in errors} == {("form", name) for name in names}


async def test_content_that_is_not_a_form_is_415(client: httpx.AsyncClient) -> None:
    response = await client.post("/fields", json={"name": "Ada"})
    assert response.status_code == 415
    assert response.headers["accept-post"] == "application/x-www-form-urlencoded, multipart/form-data"
    response = await client.post("/files", data={"note": "x"})
    assert (response.status_code, response.headers["accept-post"]) == (415, "multipart/form-data")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x"]
)
async def test_broken_form_is_400(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/files", content=b"--y\r\nbroken", headers={"content-type": content_type})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")


async def test_file_is_bound_with_its_name_and_type(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/files",
        files=[("file", ("ä.txt", b"abc", "text/plain")), ("others", ("1", b"1")), ("others", ("2", b"2"))],
        data={"note": "two more"},
    )
    assert response.json() == {
        "name": "ä.txt",
        "type": "text/plain",
        "size": 3,
        "others": ["1", "2"],
        "note": "two more",
        "on_disk": False,
    }


async def test_large_file_is_on_disk_and_closed_at_the_end(client: httpx.AsyncClient) -> None:
    before = open_files()
    response = await client.post("/files", files={"file": ("large", b"x" * 3_000_000)})
    assert (response.json()["size"], response.json()["on_disk"]) == (3_000_000, True)
    await until(lambda: FILES.files[0].file.closed)
    assert open_files() <= before


async def test_file_input_without_a_file_counts_as_not_sent(client: httpx.AsyncClient) -> None:
    nothing = b'--x\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert (await client.put("/files", content=nothing, headers=headers)).json() == "none"
    (error,) = (await client.post("/files", content=nothing, headers=headers)).json()["errors"]
    assert (error["name"], error["detail"]) == ("file", "Field required")


async def test_text_instead_of_a_file_is_422(client: httpx.AsyncClient) -> None:
    (error,) = (await client.post("/files", files={"file": (None, "text")})).json()["errors"]
    assert (error["name"], error["detail"]) == ("file", "Input should be an uploaded file")


async def test_form_beyond_the_limit_is_413(client: httpx.AsyncClient) -> None:
    response = await client.post("/files", files={"file": ("large", b"x" * 6_000_000)})
    assert response.status_code == 413


@pytest.mark.parametrize("content_type", ["image/png", "application/json", None])
async def test_raw_body_is_bytes_of_any_type(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert (await client.post("/raw", content=b"\x00{", headers=headers)).json() == 2


async def test_raw_body_may_be_left_out_and_is_validated(client: httpx.AsyncClient) -> None:
    assert (await client.patch("/raw")).json() == "None None"
    response = await client.patch("/raw", content=b"long")
    assert (response.status_code, response.json()["errors"][0]["in"]) == (422, "body")


async def test_body_arrives_in_chunks(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 100_000

    assert sum((await client.put("/raw", content=pieces())).json()) == 300_000


async def test_forms_and_files_are_in_openapi(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    fields = paths["/fields"]["post"]["requestBody"]
    assert list(fields["content"]) == ["application/x-www-form-urlencoded", "multipart/form-data"]
    schema = fields["content"]["multipart/form-data"]["schema"]
    assert (set(schema["properties"]), schema["required"]) == ({"name", "age", "tag"}, ["name"])
    files = paths["/files"]["post"]["requestBody"]
    assert (list(files["content"]), files["required"]) == (["multipart/form-data"], True)
    file = files["content"]["multipart/form-data"]["schema"]["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "binary")
    login = paths["/logins"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert login["properties"]["name"]["minLength"] == 1
    for method in ("post", "put"):
        assert list(paths["/raw"][method]["requestBody"]["content"]) == ["application/octet-stream"]
    assert {"400", "413", "415", "422"} <= set(paths["/fields"]["post"]["responses"])


def open_files() -> int:
    """The number of open files of this process."""
    return len(os.listdir(Path("/proc/self/fd")))
