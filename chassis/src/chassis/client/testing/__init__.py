"""For tests: `FakeService`, which responds in place of another service, without a network."""

from .fake_messages import FakeRequest, FakeResponse
from .fake_service import FakeService, FakeServiceError
from .fake_table import in_turn

__all__ = ["FakeRequest", "FakeResponse", "FakeService", "FakeServiceError", "in_turn"]
