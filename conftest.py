"""What every test of the workspace may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import rabbitmq

SUITE = Path(__file__).parent / "tests" / "conformance" / "tests"


@pytest.fixture(name="rabbitmq_url", scope="session")
def _rabbitmq_url() -> Iterator[str]:
    """
    Give the URL of a RabbitMQ that answers, a private node if need be.

    It stands in RELEVO_TEST_AMQP too as long as the session lasts, for programs that a test starts
    and for test classes that cannot ask for a fixture.
    """
    with ExitStack() as stack:
        try:
            url = stack.enter_context(rabbitmq.server())
        except rabbitmq.NotFoundError as error:
            if rabbitmq.in_ci():
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("RELEVO_TEST_AMQP", url)
        yield url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what can be told without asking: needing RabbitMQ, and being of the conformance suite."""
    for item in items:
        if "rabbitmq_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.amqp)
        if item.path.name.startswith("test_conformance") or item.path.is_relative_to(SUITE):
            item.add_marker(pytest.mark.conformance)
