"""What a user is told: one line, which names what is wrong and what helps."""

from collections.abc import Callable
from typing import Any

import pytest

from segmentation.errors import UserError


def refuses(says: str, function: Callable[..., Any], *values: Any, **settings: Any) -> str:
    """Call a function that must end with a ``UserError`` of one line, which ``says`` is found in.

    Returns:
        The line.
    """
    with pytest.raises(UserError, match=says) as caught:
        function(*values, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)
