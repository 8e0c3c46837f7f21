"""Extension of griffe, which reads the docstrings of docs/reference.md."""

import re
from typing import Any

from griffe import Extension, Object

FIELD = re.compile(r"\n(Shape|Units|Raises|Source|Returns):")


class Fields(Extension):
    """Give a paragraph of its own to each line that begins with Shape, Units, Raises, Returns or Source."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of an object that has been read."""
        if obj.docstring:
            obj.docstring.value = FIELD.sub(r"\n\n*\1:*", obj.docstring.value).replace("|x̄|", "&#124;x̄&#124;")
