"""What all sections of a sweep file have in common."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function

from aiqn_core.settings import Expected, Settings


class Section(Settings):
    """A section of the sweep file that is not part of a training's configuration."""


PositiveNumber = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Words:
    """Marks a text that must match a pattern from end to end; `expected` says in words which texts do."""

    pattern: str
    expected: str
    longest: int = 253

    def check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value) or len(value) > self.longest:
            raise Expected(self.expected)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$", "maxLength": self.longest}
