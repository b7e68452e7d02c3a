"""`FakeService`: another service in tests, from a table."""

import asyncio
from dataclasses import dataclass

import orjson
import pytest

from chassis import App, ChassisSettings, Handler
from chassis.client import Client
from chassis.client.testing import FakeRequest, FakeResponse, FakeService, FakeServiceError, in_turn
from chassis.client.testing.fake_messages import FakeInboundResponse
from chassis.client.transport import (
    Address,
    ConnectionLostError,
    NotSentError,
    OutboundRequest,
    ResponseTooLargeError,
    Transport,
)
from chassis.testing import connect, environment

REPLICA = Address("192.0.2.1", 80)
MEGABYTE = 1_000_000


@dataclass
class Product:
    """A value of a row."""

    sku: str
    price: int


async def ask(
    service: Transport, line: str, json: object = None, headers: dict[str, str] | None = None
) -> FakeInboundResponse:
    """Send a request such as `GET /products/tea`."""
    method, _, target = line.partition(" ")
    body = None if json is None else orjson.dumps(json)
    sent = {"content-type": "application/json"} if json is not None else {}
    response = await service.send(OutboundRequest(method, target, sent | (headers or {}), body), REPLICA)
    assert isinstance(response, FakeInboundResponse)
    return response


async def json_of(service: Transport, line: str) -> object:
    """The body of the response to a request."""
    return orjson.loads(await (await ask(service, line)).read(MEGABYTE))


async def test_value_is_sent_as_json() -> None:
    service = FakeService({"GET /products": [Product("tea", 3)], "GET /": "text"})
    response = await ask(service, "GET /products")
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    assert await response.read(MEGABYTE) == b'[{"sku":"tea","price":3}]'
    assert await json_of(service, "GET /") == "text"


async def test_none_is_no_content() -> None:
    response = await ask(FakeService({"DELETE /products/{sku}": None}), "DELETE /products/tea")
    assert (response.status, await response.read(MEGABYTE)) == (204, b"")


async def test_response_has_its_status_headers_and_body() -> None:
    row = FakeResponse(201, {"id": 7}, headers={"Location": "/orders/7"})
    response = await ask(FakeService({"POST /orders": row}), "POST /orders", {"sku": "tea"})
    assert (response.status, response.headers["location"]) == (201, "/orders/7")
    assert await response.read(MEGABYTE) == b'{"id":7}'


async def test_function_gets_the_request_with_its_path_parameters() -> None:
    async def delete(request: FakeRequest) -> FakeResponse:
        return FakeResponse(409 if request.path_params["id"] == "7" else 204)

    service = FakeService(
        {
            "GET /products/{sku}": lambda request: Product(request.path_params["sku"], int(request.params["price"])),
            "DELETE /orders/{id}": delete,
        }
    )
    assert await json_of(service, "GET /products/green%20tea?price=3") == {"sku": "green tea", "price": 3}
    assert [(await ask(service, f"DELETE /orders/{number}")).status for number in (7, 8)] == [409, 204]


async def test_encoded_slash_stays_in_its_parameter() -> None:
    service = FakeService({"GET /products/{sku}": lambda request: request.path_params["sku"]})
    assert await json_of(service, "GET /products/a%2Fb") == "a/b"
    with pytest.raises(FakeServiceError):
        await ask(service, "GET /products/a/b")


async def test_row_that_says_more_is_chosen() -> None:
    service = FakeService(
        {
            "GET /products/{sku}": "any",
            "GET /products/tea": "tea",
            "GET /products/{sku}?currency=EUR": "in euro",
        }
    )
    targets = (
        "/products/cocoa",
        "/products/tea",
        "/products/cocoa?size=1&currency=EUR",
        "/products/cocoa?currency=USD",
    )
    assert [await json_of(service, f"GET {target}") for target in targets] == ["any", "tea", "in euro", "any"]


@pytest.mark.parametrize("error", [ConnectionLostError, NotSentError("no route")])
async def test_exception_is_raised_in_place_of_a_response(error: Exception | type[Exception]) -> None:
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind):
        await ask(FakeService({"GET /slow": error}), "GET /slow")


async def test_results_come_in_turn_and_the_last_one_is_repeated() -> None:
    service = FakeService({"GET /flaky": in_turn(ConnectionLostError, FakeResponse(503), lambda _: [3])})
    with pytest.raises(ConnectionLostError):
        await ask(service, "GET /flaky")
    assert (await ask(service, "GET /flaky")).status == 503
    assert [await json_of(service, "GET /flaky") for _ in range(2)] == [[3], [3]]


def test_turns_need_a_result() -> None:
    with pytest.raises(ValueError, match="at least one"):
        in_turn()


async def test_failing_service_fails_every_request() -> None:
    service = FakeService.failing(ConnectionLostError)
    for line in ("GET /", "POST /orders"):
        with pytest.raises(ConnectionLostError):
            await ask(service, line)
    assert (await ask(FakeService.failing(FakeResponse(503)), "GET /any/thing")).status == 503


async def test_body_may_end_too_early() -> None:
    row = FakeResponse(content=[b"one", b"two", ConnectionLostError("reset")])
    chunks = (await ask(FakeService({"GET /": row}), "GET /")).chunks()
    assert [await anext(chunks), await anext(chunks)] == [b"one", b"two"]
    with pytest.raises(ConnectionLostError):
        await anext(chunks)


async def test_body_beyond_the_limit_is_too_large() -> None:
    response = await ask(FakeService({"GET /": FakeResponse(content=b"12345")}), "GET /")
    with pytest.raises(ResponseTooLargeError, match="5 bytes; 4"):
        await response.read(4)


async def test_response_comes_after_its_delay() -> None:
    service = FakeService({"GET /": FakeResponse(delay_seconds=60)})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ask(service, "GET /")


async def test_response_to_head_has_no_body() -> None:
    response = await ask(FakeService({"HEAD /": {"a": 1}}), "HEAD /")
    assert (response.headers["content-type"], await response.read(MEGABYTE)) == ("application/json", b"")


async def test_requests_are_recorded() -> None:
    service = FakeService({"POST /orders": None, "GET /products/{sku}": ConnectionLostError})
    await ask(service, "POST /orders?dry=1", {"sku": "tea"}, headers={"x-request-id": "r1"})
    with pytest.raises(ConnectionLostError):
        await ask(service, "GET /products/green%20tea")
    order, product = service.requests
    assert (order.method, order.path, order.params["dry"], order.json) == ("POST", "/orders", "1", {"sku": "tea"})
    assert order.headers["X-Request-ID"] == "r1"
    assert (product.path, product.path_params, product.json) == ("/products/green tea", {"sku": "green tea"}, None)


async def test_unknown_request_names_the_rows() -> None:
    service = FakeService({"GET /products/{sku}": None, "POST /orders": None})
    with pytest.raises(FakeServiceError) as caught:
        await ask(service, "GET /orders?page=2")
    assert str(caught.value) == (
        "the fake service has no row for GET /orders?page=2; its rows: GET /products/{sku}, POST /orders"
    )


async def test_unknown_request_fails_the_test_at_the_end_when_the_service_has_caught_it() -> None:
    service = await FakeService().__aenter__()
    with pytest.raises(FakeServiceError):
        await ask(service, "GET /orders")
    with pytest.raises(FakeServiceError, match="no row for GET /orders; its rows: none"):
        await service.__aexit__(None, None, None)


@pytest.mark.parametrize("key", ["/products", "FETCH /products", "GET products", "get /products"])
def test_row_without_method_and_path_is_an_error(key: str) -> None:
    with pytest.raises(ValueError, match=r"write it as 'GET /products/\{sku\}'"):
        FakeService({key: None})


class Offers(Handler):
    """Asks the catalogue."""

    def __init__(self, catalogue: Client) -> None:
        self._catalogue = catalogue

    async def get(self, sku: str) -> Product:
        return await self._catalogue.get("/products/{sku}", path={"sku": sku}, returns=Product)


def shop(catalogue: FakeService) -> App:
    """A service that calls another one."""
    with environment({}):
        app = App(ChassisSettings.from_values(), name="shop")
    app.add_route("/offers/{sku}", Offers(app.client("catalogue", base_url="http://catalogue/v1")))
    app.clients["catalogue"].use(catalogue)
    return app


async def test_client_of_an_app_uses_it_with_retries() -> None:
    catalogue = FakeService({"GET /v1/products/{sku}": in_turn(NotSentError("no route"), Product("tea", 3))})
    async with connect(shop(catalogue)) as client:
        assert (await client.get("/offers/tea")).json() == {"sku": "tea", "price": 3}
    assert [str(request) for request in catalogue.requests] == ["GET /v1/products/tea"] * 2
    assert catalogue.operations == ["GET /v1/products/{sku}"]


async def test_unknown_request_of_an_app_fails_the_test() -> None:
    with pytest.raises(FakeServiceError, match="has no row for GET /v1/products/tea; its rows: GET /products"):
        async with connect(shop(FakeService({"GET /products": []}))) as client:
            assert (await client.get("/offers/tea")).status_code == 500
