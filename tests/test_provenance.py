"""Where numbers come from: the commit that last changed them."""

import os
import subprocess

import pytest

from defar_analysis.provenance import git_commit, last_commit


@pytest.fixture
def repository(tmp_path):
    """A function that writes files there and commits them; it returns the commit."""

    def git(*words):
        run = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *words]
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()

    def commit(**files):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        git("add", "-A")
        git("commit", "-q", "--no-verify", "-m", "c")
        return git("rev-parse", "--short=12", "HEAD")

    git("init", "-q")
    return tmp_path, commit


def test_the_last_commit_is_that_of_the_files_and_marked_where_they_differ(repository):
    folder, commit = repository
    first, second = commit(a="1", b="1"), commit(b="2")
    a, b = folder / "a", folder / "b"
    assert (last_commit([a]), last_commit([b]), last_commit([a, b])) == (first, second, second)
    b.write_text("3")
    assert (last_commit([a]), last_commit([a, b])) == (first, f"{second}+")


def test_what_no_commit_holds_has_none(repository, tmp_path_factory):
    folder, commit = repository
    commit(a="1")
    (folder / "new").write_text("1")
    assert last_commit([folder / "new"]) is None and last_commit([]) is None
    assert last_commit([tmp_path_factory.mktemp("elsewhere") / "a"]) is None


def test_reading_the_commit_leaves_the_index_alone(repository):
    folder, commit = repository
    now = commit(a="1", b="1")
    os.utime(folder / "a", (0, 0))  # git would note in the index that it has looked at it again
    index = folder / ".git" / "index"
    before = index.stat().st_ino, index.read_bytes()  # whoever writes it locks it, and a kill would leave the lock
    assert (git_commit(folder), last_commit([folder / "a"])) == (now, now)
    (folder / "b").write_text("2")
    (folder / "untracked").write_text("3")
    assert git_commit(folder) == f"{now}+" and last_commit([folder / "b"]) == f"{now}+"
    assert (index.stat().st_ino, index.read_bytes()) == before
    assert git_commit(folder.parent) is None
