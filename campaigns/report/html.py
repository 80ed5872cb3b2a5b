"""A page as one HTML file that opens offline: template, figures, version and time."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from campaigns.report.numbers import unbroken
from db.records import Json

if TYPE_CHECKING:
    from campaigns.report.figures import Panel

VERSIONS = ("kappascout", "torch", "matgl", "botorch", "gpytorch", "scikit-learn", "pymatgen", "plotly")
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""Escapes, so that no name of a material can end the script element it is in."""


def render(template: str, **content: Any) -> str:
    """Fill a template of ``campaigns/templates`` that extends ``page.html.j2``; names in ``content`` are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("campaigns", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        plotly=_as_is(get_plotlyjs()),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={"Python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        **content,
    )


def drawn(panel: Panel) -> Json:
    """Content of a panel for the template; its figure as JSON that is safe inside a script element."""
    figure = panel.figure
    return {
        "key": panel.key,
        "title": unbroken(panel.title),
        "reading": unbroken(panel.reading),
        "shape": panel.shape,
        "json": None if figure is None else _as_is(figure.to_json().translate(_IN_SCRIPT)),
    }


def _as_is(html: str) -> Any:
    """Text of a script element: HTML escapes do not apply there."""
    from markupsafe import Markup

    return Markup(html)
