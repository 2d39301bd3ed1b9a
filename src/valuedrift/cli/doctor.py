"""The verb on this machine: doctor."""

from __future__ import annotations

from typing import Any

from ..progress import tell
from .options import Json
from .program import app, output, table


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print versions, devices, precision, caches and what is missing for which verb, for bug reports. Loads no model."""
    from .. import doctor

    output(doctor.examined(), as_json, _show)


def _show(found: dict[str, Any]) -> None:
    table("Versions", ["package", "version"], [[name, version or "-"] for name, version in found["versions"].items()])
    devices, precision = found["devices"], found["precision"] or "not known, because torch cannot be imported"
    names = f" ({', '.join(devices['names'])})" if devices["names"] else ""
    tell(f"{found['platform']}: {devices['cpus']} CPUs, accelerator: {devices['accelerator'] or 'none'}{names}")
    tell(f"Precision that 'auto' takes: {precision}.")
    for name, cache in found["caches"].items():
        at_least = "" if cache["whole"] else "at least "
        size = "absent" if cache["bytes"] is None else f"{at_least}{cache['bytes'] / 1e9:,.2f} GB"
        tell(f"Cache {name}: {cache['path']} ({size}; {cache['free'] / 1e9:,.0f} GB free)")
    endpoint = found["endpoint"]
    tell(f"Endpoint: {endpoint.get('fault') or endpoint['address']} ({'with' if endpoint['key'] else 'without'} OPENAI_API_KEY)")
    for one in found["missing"]:
        tell(f"Missing: {one['package']}: {one['reason']}. Needed for {one['for']}.")
    if not found["missing"]:
        tell("Nothing is missing.")
