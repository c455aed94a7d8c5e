"""HTML pages that are one file and open offline: rendered from a template, written whole, pictures inside."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from uuid import uuid4

SHARED = Path(__file__).parent / "templates"
"""What templates may extend: `page.html.jinja`, cards that are filtered by tag."""


def render(template: Path, target: Path, **values: Any) -> Path:
    """Write `target`; whoever reloads it meanwhile never sees half a page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["decimals"] = lambda value, digits: f"{value:.{digits}f}"
    draft = target.with_name(f".{target.name}.{uuid4().hex}.partial")  # workers may finish at the same time
    draft.write_text(jinja.get_template(template.name).render(**values), encoding="utf-8")
    return draft.replace(target)


def data_url(content: bytes, kind: str) -> str:
    """A picture inside a page; `kind`: png, webp..."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
