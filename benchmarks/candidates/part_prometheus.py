"""FastAPI with prometheus-fastapi-instrumentator, by the line of its README."""

from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator

from .bare_fastapi import create_app
from .serving import serve


def add_prometheus(app: FastAPI) -> None:
    Instrumentator().instrument(app).expose(app)


if __name__ == "__main__":
    app = create_app()
    add_prometheus(app)
    serve(app)
