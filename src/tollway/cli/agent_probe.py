"""Imports agent modules in a process of its own and prints what came of it as JSON: `python -m … MODULE…`.

Apart from the caller, so that a module which hangs, exits or prints while being imported harms nobody.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from typing import Any

from tollway.runtime.registry import registry

_NOT_THEIRS = ("<", __file__, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))


def main(modules: Sequence[str]) -> int:
    """Import `modules` from the working directory, then PYTHONPATH, up to the first that cannot be.

    Prints what they registered, and of the one that failed the traceback's last line.
    """
    sys.path.insert(0, os.getcwd())
    found: dict[str, Any] = {"module": "", "error": "", "kind": "", "missing": "", "at": "", "agents": []}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            for module in modules:
                found["module"] = module
                importlib.import_module(module)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            found["error"] = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
            found["kind"] = type(error).__name__
            found["missing"] = getattr(error, "name", None) or "" if isinstance(error, ImportError) else ""
            own = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
            found["at"] = f"{own[-1].filename}:{own[-1].lineno}" if own else ""
    found["agents"] = [{"name": spec.name, "lane": spec.lane, "tier": spec.tier} for spec in registry.all()]
    print(json.dumps(found), flush=True)
    return 1 if found["error"] else 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # a thread the module left behind must not keep us
