"""Which system user PostgreSQL runs as: it refuses root, so root hands it to an unprivileged user."""

import os
import pwd
from pathlib import Path

from tollway.domain.errors import ConfigError
from tollway.processes import Identity

_PREFERRED = ("postgres", "nobody")


def choose_identity(cluster: Path) -> Identity | None:
    """None when we are not root: PostgreSQL then runs as we do. An existing cluster keeps its owner."""
    if os.geteuid() != 0:
        return None
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Identity(owner.st_uid, owner.st_gid)
    users = {user.pw_name: user for user in pwd.getpwall() if user.pw_uid != 0}
    for name in (*_PREFERRED, *users):
        if name in users:
            return Identity(users[name].pw_uid, users[name].pw_gid)
    raise ConfigError(
        "database.url",
        "embedded",
        "PostgreSQL cannot run as root and there is no other user: add one (useradd tollway)",
    )


def hand_over(path: Path, identity: Identity | None) -> None:
    """Give `path` to the user PostgreSQL runs as.

    Raises ConfigError where the file system forbids it (network folders that distrust root).
    """
    if identity is None:
        return
    try:
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
    except OSError as error:
        raise ConfigError(
            "database.data_dir",
            str(path),
            f"cannot be given to user {identity.uid} ({error.strerror}): choose a local disk, or do not run as root",
        ) from error
