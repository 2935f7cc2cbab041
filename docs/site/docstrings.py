"""Docstrings of the project as Markdown: a line `name : text` is an entry of a list."""

from __future__ import annotations

import re

from griffe import Extension

ENTRY = re.compile(r"^([\w*]+(?:, [\w*]+)*) : ", flags=re.MULTILINE)


class Entries(Extension):
    def on_object(self, *, obj, **kwargs) -> None:
        if obj.docstring:
            first, *rest = ENTRY.split(obj.docstring.value)
            pairs = zip(rest[::2], rest[1::2], strict=True)
            obj.docstring.value = first + "".join(f"\n- `{name}`: {text}" for name, text in pairs)
