"""valuedrift: where do a language model's values come from, and when do they move?"""

__version__ = "0.1.0"
