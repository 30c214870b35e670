# Amaranth has no type information: everything is Any, but for the submodule stubbed beside this file.
from typing import Any

def __getattr__(name: str) -> Any: ...
