"""valuedrift: where do a language model's values come from, and when do they move?"""

__version__ = "0.3.0"


def __getattr__(name: str) -> object:
    """Import the callback only on first use, because it imports torch."""
    if name == "ValueDriftCallback":
        from importlib import import_module

        return import_module("valuedrift.integrations.callback").ValueDriftCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
