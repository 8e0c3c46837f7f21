"""Interrupts at a chosen moment of a run in this process."""

from typing import Any

import pytest


def stop_after(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """Raise KeyboardInterrupt when `owner.name` has been called so many times."""
    wrapped, left = getattr(owner, name), [calls]

    def stopping(*args: Any, **kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return result

    patch.setattr(owner, name, stopping)
