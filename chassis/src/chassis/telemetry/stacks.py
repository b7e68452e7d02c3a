"""Call stacks as text, without the values of variables."""

import inspect
from pathlib import PurePath
from types import FrameType

FRAMES = 4
"""In a log line."""


def calls_of(frame: FrameType | None, limit: int = FRAMES) -> list[str]:
    """The last calls of a stack, the innermost first."""
    calls: list[str] = []
    while frame is not None and len(calls) < limit:
        calls.append(_call_of(frame))
        frame = frame.f_back
    return calls


def frames_of(awaitable: object) -> list[FrameType]:
    """The frames of a coroutine that waits, and of those that it awaits, the outermost first."""
    frames: list[FrameType] = []
    while True:
        if inspect.iscoroutine(awaitable):
            frame, inner = awaitable.cr_frame, awaitable.cr_await
        elif inspect.isgenerator(awaitable):
            frame, inner = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif inspect.isasyncgen(awaitable):
            frame, inner = awaitable.ag_frame, awaitable.ag_await
        else:
            return frames
        if frame is not None:
            frames.append(frame)
        awaitable = inner


def waiting_calls(frames: list[FrameType], limit: int) -> list[str]:
    """The last calls of a coroutine that waits, the innermost first."""
    return [_call_of(frame) for frame in frames[: -limit - 1 : -1]]


def _call_of(frame: FrameType) -> str:
    file = PurePath(frame.f_code.co_filename)
    return f"{file.parent.name}/{file.name}:{frame.f_lineno} {frame.f_code.co_qualname}"
