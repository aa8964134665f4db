"""Tell local disks from network filesystems, on which SQLite's write-ahead log is not safe."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# SQLite's write-ahead log needs memory shared by all readers, which these don't give across machines.
_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb2", "smb3", "smbfs"}
)
_NETWORK_FUSE = frozenset(
    {
        "blobfuse",
        "blobfuse2",
        "ceph",
        "gcsfuse",
        "glusterfs",
        "goofys",
        "juicefs",
        "mountpoint-s3",
        "rclone",
        "s3fs",
        "sshfs",
    }
)


def is_network_filesystem(path: Path, mounts_file: Path = Path("/proc/self/mountinfo")) -> bool:
    """Return whether `path`, which exists, lies on a network filesystem; False where the system doesn't say."""
    return is_network_kind(filesystem_kind(path, mounts_file))


def filesystem_kind(path: Path, mounts_file: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the filesystem on which `path` lies, such as "ext4"; "" where the system doesn't say."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        lines = mounts_file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        target = path.resolve()
    except OSError:
        return ""
    kind, depth = "", -1
    for line in lines:
        mount_point, found = _parse(line)
        if found and len(mount_point.parts) >= depth and target.is_relative_to(mount_point):
            kind, depth = found, len(mount_point.parts)
    return kind


def is_network_kind(kind: str) -> bool:
    """Return whether a filesystem's type, such as "nfs4" or "fuse.sshfs", is a network's."""
    base, _, inner = kind.partition(".")
    return base in _NETWORK or (base == "fuse" and inner in _NETWORK_FUSE)


def _parse(line: str) -> tuple[Path, str]:
    # "36 35 98:0 /root /mount/point options - type source options"; a space in a name is written as \040.
    left, _, right = line.partition(" - ")
    fields, tail = left.split(), right.split()
    if len(fields) < 5 or not tail:
        return Path("/"), ""
    return Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])), tail[0]
