# Amaranth's enumerations are the standard library's, with a shape. Without this stub mypy takes their members for
# integers, and refuses the shape.
import enum
from typing import Any

class Enum(enum.Enum):  # type: ignore[misc]
    def __init_subclass__(cls, *, shape: Any = None, view_class: Any = None) -> None: ...
    @classmethod
    def as_shape(cls) -> Any: ...
    @classmethod
    def const(cls, init: Any) -> Any: ...

