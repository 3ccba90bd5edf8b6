import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from forethought.storage.reply_cache import Cache

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from forethought.storage.reply_cache import Cache

cache = Cache(Path(sys.argv[1]), account="child")
for number in range(10**9):
    cache.keep(f"{number}", {"text": "x" * 500}, prompt_tokens=2)
    print(number, flush=True)
"""
WRITE_SHARED = """
import sys
from pathlib import Path
from forethought.storage.reply_cache import Cache

with Cache(Path(sys.argv[1]), account=sys.argv[2]) as cache:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(300):
        cache.keep(f"{sys.argv[2]} {number}", number)
        cache.keep_all({f"shared {number}": sys.argv[2]})
"""
OPEN_AS_A_GUEST = """
import os, sys
from pathlib import Path
from forethought.storage.reply_cache import Cache

if os.geteuid() == 0:
    os.seteuid(65534)
try:
    Cache(Path(sys.argv[1]))
except ValueError as error:
    print(error)
"""


def child(code: str, *words: object, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_what_is_kept_is_found(tmp_path):
    path = tmp_path / "deep" / "cache.sqlite"
    answers = {"a": {"text": "naïve \ud800 \0 😀", "ids": [1, 2]}, "b": 0, "c": "", "d": [None]}
    with Cache(path) as cache:
        assert cache.find("a") is None
        for key, value in answers.items():
            cache.keep(key, value)
    with Cache(path) as cache:
        assert {key: cache.find(key) for key in answers} == answers
        assert cache.hits == 4


def test_the_first_answer_stays():
    with Cache() as cache:
        cache.keep("a", 1, prompt_tokens=3)
        cache.keep("a", 2, prompt_tokens=4)
        cache.keep_all({"a": 3, "b": 4})
        assert (cache.find("a"), cache.find("b")) == (1, 4)
        assert cache.counts()["prompt_tokens"] == 3


def test_an_account_is_charged_over_all_attempts(tmp_path):
    path = tmp_path / "cache.sqlite"
    with Cache(path, account="one") as cache:
        cache.keep("a", 1, prompt_tokens=10, completion_tokens=5, cost=0.25)
    with Cache(path, account="two") as cache:
        cache.keep("b", 1, prompt_tokens=1000)
    with Cache(path, account="one") as cache:
        cache.keep("c", 1, prompt_tokens=1, completion_tokens=2, cost=0.5)
        cache.find("b")
        cache.find("none")
        assert cache.counts() == {
            "calls": 2,
            "hits": 1,
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "cost": 0.75,
        }


def test_any_thread_may_ask_and_keep(tmp_path):
    with Cache(tmp_path / "cache.sqlite") as cache:

        def work(name: int) -> None:
            for number in range(100):
                cache.keep(f"{name} {number}", number)
                assert cache.find(f"{name} {number}") == number

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.counts()["calls"] == 400


def test_a_killed_process_has_lost_nothing(tmp_path):
    path = tmp_path / "cache.sqlite"
    for _ in range(3):
        process = child(WRITE_FOR_EVER, path)
        assert process.stdout is not None
        while int(process.stdout.readline()) < 150:
            pass
        process.send_signal(signal.SIGKILL)
        acknowledged = [150, *map(int, process.stdout.read().split())]
        assert process.wait() == -signal.SIGKILL
        with Cache(path, account="child") as cache:
            assert all(cache.find(str(number)) for number in range(acknowledged[-1] + 1))
            # One more may be on file whose acknowledgement never came.
            assert cache.counts()["calls"] - len(range(acknowledged[-1] + 1)) in (0, 1)
        path.unlink()


def test_processes_share_a_file(tmp_path):
    path = tmp_path / "cache.sqlite"
    children = [child(WRITE_SHARED, path, name) for name in ("one", "two", "three")]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    for process in children:
        process.communicate("go\n")
        assert process.returncode == 0
    with Cache(path) as cache:
        for name in ("one", "two", "three"):
            assert [cache.find(f"{name} {number}") for number in range(300)] == list(range(300))
        assert {cache.find(f"shared {number}") for number in range(300)} <= {"one", "two", "three"}


@pytest.mark.parametrize("content", [b"prompt,answer\n" * 200, b"\0" * 4096, b"a note\n"])
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "answers.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cache: .*answers\.csv cannot be used.*move it away"):
        Cache(path)
    assert path.read_bytes() == content


def test_another_programs_data_base_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "runs.db"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE answers (a, b)")
    base.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"runs\.db cannot be used: .* something else; move it"):
        Cache(path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "cache.sqlite"
    with Cache(path) as cache:
        cache.keep_all({f"{number}": "x" * 500 for number in range(2000)})
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with Cache(path) as cache:
        for act in (lambda: cache.find("7"), lambda: cache.keep("new", 1), cache.counts):
            with pytest.raises(ValueError, match=r"cache\.sqlite cannot be used: .*malformed"):
                act()


def test_a_path_that_cannot_be_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "cache.sqlite"):
        with pytest.raises(ValueError, match=rf"cache: {path} cannot be used: .*another path|give"):
            Cache(path)


@pytest.mark.parametrize("kept_before", [False, True])
def test_what_cannot_be_written_is_refused_before_anything_is_asked(tmp_path, kept_before):
    for folder in [tmp_path, *tmp_path.parents]:
        if "pytest-of" in str(folder):
            folder.chmod(0o755)
    path = tmp_path / "cache.sqlite"
    if kept_before:
        with Cache(path) as cache:
            cache.keep("a", 1)
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    said, _ = child(OPEN_AS_A_GUEST, path).communicate()
    tmp_path.chmod(0o755)
    assert "cache.sqlite cannot be used" in said
    assert "make file and folder writable" in said


def test_a_disk_that_takes_no_more_loses_nothing_acknowledged(tmp_path):
    path = tmp_path / "cache.sqlite"

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    process = child(WRITE_FOR_EVER, path, preexec_fn=limit_files, stderr=subprocess.PIPE)
    said, complained = process.communicate()
    assert process.returncode == 1
    assert "cannot be used" in complained
    assert "make room on its disk" in complained
    acknowledged = [int(number) for number in said.split()]
    assert len(acknowledged) > 50
    with Cache(path) as cache:
        assert all(cache.find(str(number)) for number in acknowledged)
        cache.keep("after", 1)
    assert Path(path).stat().st_size > 0
    assert not os.path.exists(f"{path}-wal")
