"""A certificate's bundle as one page for people: complete in itself, ready to print, no proof without the bundle."""

import base64
import json
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from service.evidence.verify import sha256

_PAGES = Environment(
    loader=PackageLoader("service.evidence"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(raw: bytes) -> str:
    """Return the page of a bundle. Nothing in it is trusted to be free of markup."""
    bundle = json.loads(raw)
    statement = json.loads(base64.b64decode(bundle["envelopes"]["certificate"]["payload"]))
    signed_by = bundle["envelopes"]["certificate"]["signatures"][0]["keyid"]
    return _PAGES.get_template("certificate.html").render(
        certificate=statement["predicate"],
        subjects=statement["subject"],
        key=next(key for key in bundle["keys"] if key["key_id"] == signed_by),
        checkpoint=bundle["log"]["checkpoint"],
        sha256=sha256(raw),
    )


def figure(value: float | None) -> str:
    """Return a figure as people read it."""
    return "none" if value is None else f"{value:.4g}"


def interval(ci95: list[float | None] | None) -> str:
    """Return a 95 % interval as people read it."""
    return "no interval" if ci95 is None else f"{figure(ci95[0])} to {figure(ci95[1])}"


def day(moment: Any) -> str:
    """Return a moment as people read it."""
    return "none" if moment is None else f"{moment[:10]} {moment[11:19]} UTC"


_PAGES.filters |= {"figure": figure, "interval": interval, "day": day}
