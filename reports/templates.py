"""The templates of the pages: every value is escaped, and one that is missing is an error."""

from pathlib import Path

import jinja2


def environment() -> jinja2.Environment:
    """Loads templates from this folder."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
