from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loopwright.journal.filesystem import filesystem_kind, is_network_filesystem, is_network_kind

# As the kernel writes it: number, parent, device, root, mount point, options, more fields, "-", type, source, options.
MOUNTS = r"""
21 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 28 0:35 / {root}/shared rw,relatime shared:20 - nfs4 server:/export rw,vers=4.2
41 40 254:1 / {root}/shared/scratch rw,relatime - xfs /dev/vdb rw
42 28 0:36 / {root}/my\040data\134old rw - fuse.sshfs user@host:/ rw
43 28 0:37 / {root}/twice rw - autofs systemd-1 rw
44 43 0:38 / {root}/twice rw shared:3 master:2 - lustre mds@tcp:/fs rw
45 28 0:39 / {root}/share rw - tmpfs tmpfs rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS.format(root=tmp_path))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the table of mounts is Linux's")
@pytest.mark.parametrize(
    ("directory", "is_network"),
    [
        ("", False),
        ("shared", True),
        ("shared/deep/inside", True),
        ("shared/scratch/run", False),  # a local disk below a network's
        ("sharedelse", False),  # its name begins as a mount point's does
        (r"my data\old/run", True),
        ("twice/run", True),  # the later one hides the earlier
        ("share/run", False),
    ],
)
def test_the_mount_that_a_directory_lies_on_decides(
    tmp_path: Path, mounts: Path, directory: str, is_network: bool
) -> None:
    (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    assert is_network_filesystem(tmp_path / directory, mounts) is is_network


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the table of mounts is Linux's")
def test_the_kind_is_named_as_the_system_does(tmp_path: Path, mounts: Path) -> None:
    assert filesystem_kind(tmp_path / "shared", mounts) == "nfs4"
    assert filesystem_kind(tmp_path, tmp_path / "no table") == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the table of mounts is Linux's")
def test_links_are_followed(tmp_path: Path, mounts: Path) -> None:
    (tmp_path / "shared" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "shared" / "run")
    assert is_network_filesystem(tmp_path / "link", mounts)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the table of mounts is Linux's")
def test_this_machines_own_table_is_understood(tmp_path: Path) -> None:
    table = Path("/proc/self/mountinfo").read_text()
    (proc,) = [line for line in table.splitlines() if line.split()[4] == "/proc"]
    (tmp_path / "mountinfo").write_text(table.replace(proc, proc.replace(" - proc ", " - ceph ")))
    assert not is_network_filesystem(Path("/proc/self"))
    assert is_network_filesystem(Path("/proc/self"), tmp_path / "mountinfo")


def test_a_system_that_does_not_say_has_local_disks(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("nonsense\n\n- -\n1 2 3 - nfs\n")
    assert not is_network_filesystem(tmp_path, tmp_path / "mountinfo")
    assert not is_network_filesystem(tmp_path, tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "lustre", "9p", "fuse.sshfs", "fuse.gcsfuse", "fuse.s3fs"])
def test_networks_are_told(kind: str) -> None:
    assert is_network_kind(kind)


@pytest.mark.parametrize("kind", ["", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "fuse", "fuse.ntfs-3g"])
def test_local_disks_are_told(kind: str) -> None:
    assert not is_network_kind(kind)
