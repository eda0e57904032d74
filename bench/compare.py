"""Sets two saved reports of `tollway bench` side by side, CPU in units of each report's own calibration.

python bench/compare.py bench/results/before.json bench/results/after.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def figures(path: Path) -> dict[str, tuple[float, str]]:
    """Value and unit by `scenario: figure`; CPU figures also as a share of the calibration taken beside them."""
    found: dict[str, tuple[float, str]] = {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for scenario in document["scenarios"]:
        taken = [
            phase[when]["calibration_ms"]
            for phase in scenario["phases"]
            for when in ("machine_before", "machine_after")
        ]
        calibration_ms = sum(taken) / len(taken) if taken else 0.0
        if taken:
            found[f"{scenario['scenario']}: calibration"] = (calibration_ms, "ms")
        for figure in scenario["figures"]:
            name = f"{scenario['scenario']}: {figure['name']}"
            found[name] = (figure["value"], figure["unit"])
            if taken and figure["name"].startswith("CPU"):
                found[f"{name}, of the calibration"] = (100 * figure["value"] / calibration_ms, "%")
    return found


def main(arguments: list[str]) -> int:
    """Print the table; 2 when the arguments are not two reports."""
    try:
        before, after = (figures(Path(argument)) for argument in arguments)
    except (ValueError, OSError, KeyError) as error:
        print(f"two saved reports are needed: {error}\n{__doc__}", file=sys.stderr)
        return 2
    table = Table("figure", "before", "after", "change")
    for name in [name for name in before if name in after]:
        (old, unit), (new, _) = before[name], after[name]
        change = f"{100 * (new / old - 1):+.1f} %" if old else ""
        table.add_row(name, f"{old:,.4g} {unit}", f"{new:,.4g} {unit}", change)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
