"""What makes two failures the same to a person: the same error, raised at the same place of the agent's own code.

The place is the innermost frame of the agent's own code, by file, function and the text of its line. So neither the
numbers and ids of a message, nor lines that move in their file, nor the depths of a library part what belongs together.
"""

import hashlib
import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).resolve().parent.parent) + "/"
_OTHERS = tuple(
    str(Path(path).resolve()) + "/" for path in {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
)


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Where the error came from in the agent's own code, else where it was first called; None when all is ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    own = (frame for frame in reversed(frames) if not frame.filename.startswith((*_OTHERS, "<frozen ")))
    return next(own, frames[0] if frames else None)


def place_of(frame: traceback.FrameSummary | None) -> str:
    """The frame as a place that stays the same when other lines of its file change."""
    return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.name}:{frame.line or ''}" if frame else ""


def fingerprint(agent_name: str, code: str, place: str) -> str:
    """What groups dead letters: the same error of the same agent at the same place. Of 16 hexadecimal digits."""
    return hashlib.sha256(f"{agent_name}\n{code}\n{place}".encode()).hexdigest()[:16]
