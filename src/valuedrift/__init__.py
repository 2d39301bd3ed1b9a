"""valuedrift: where do a language model's values come from, and when do they move?"""

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import what stands in for the whole package only where it is asked for: it brings torch with it."""
    if name == "ValueDriftCallback":
        from importlib import import_module

        return import_module("valuedrift.integrations.callback").ValueDriftCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
