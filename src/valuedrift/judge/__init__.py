"""Judges read the stance of an answer towards a claim.

A judge is one file that defines `class Judge`:

    def __init__(self, argument: str): ...            what follows the colon in "labels:PATH_OR_ID", else ""
    identity: str                                     name plus a digest of everything that decides its verdicts
    note: str                                         what a reader of its figures must know; empty where there is nothing to say
    def read(self, items: Sequence[Item]) -> list[Reading]    one reading per item, in order; never raises for one bad item
"""
