"""Ranks over real gloo groups, with libuv and without; what each TCPStore says it is counts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import warm

pytest.importorskip("torch")

from nanochat import launch, stores
from nanochat.errors import NanochatError, WrongUsage

REPO = Path(__file__).resolve().parents[2]

RANK = """
    import json, os, sys
    from datetime import timedelta
    import torch, torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    total = torch.ones(1)
    dist.all_reduce(total)
    store = dist.distributed_c10d._get_default_store()
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    default = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    asked = dist.TCPStore("127.0.0.1", 0, 1, True, timedelta(seconds=9), False, False, None, True)
    told = {
        "who": "rank " + os.environ["RANK"],
        "total": int(total),
        "libuv": [s.libuvBackend for s in (store, default, asked)],
        "port": int(os.environ["MASTER_PORT"]),
        "argv": sys.argv[1:],
    }
    os.write(1, f"REPORT {json.dumps(told)}\\n".encode())  # in one piece, however many write at once
    dist.destroy_process_group()
"""

AGENT = """
    # The agent, whose stores tell what they are.
    import json, sys
    import torch.distributed as dist
    from nanochat import flags, launch, stores

    assert stores.has_libuv()
    stores.has_libuv = lambda: True
    make = dist.TCPStore.__init__

    def telling(self, *args, **options):
        make(self, *args, **options)
        print("REPORT " + json.dumps({"who": "agent", "libuv": [self.libuvBackend]}), flush=True)

    dist.TCPStore.__init__ = telling
    flags.run(launch.main)
"""

WITHOUT_LIBUV = """
    # Makes any Python that finds it have a torch built without libuv, as far as one can tell such a torch from outside:
    # TCPStore refuses it, servers and clients alike.
    import torch.distributed as dist

    make = dist.TCPStore.__init__

    def refusing(self, *args, **options):
        if options.get("use_libuv", args[8] if len(args) > 8 else True):
            raise dist.DistStoreError(
                "use_libuv was requested but PyTorch was built without libuv support"
            )
        make(self, *args, **options)

    dist.TCPStore.__init__ = refusing
"""


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's own, without what would decide about libuv or threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NANOCHAT_LIBUV", "USE_LIBUV", "RANK", "WORLD_SIZE", "MASTER_PORT")
    }
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | dict(env or {})


def run(
    *words: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPO,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [warm.python(), *map(str, words)],
        env=environment(env), cwd=cwd, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def reports(done: subprocess.CompletedProcess[str]) -> dict[str, list[dict[str, object]]]:
    """What ranks and agent said, by who said it."""
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, object]]] = {}
    for line in done.stdout.splitlines():
        if "REPORT " in line:
            told = json.loads(line.partition("REPORT ")[2])
            found.setdefault(told.pop("who"), []).append(told)
    return found


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A port at which somebody listens, below those that the system hands out by itself."""
    for port in range(21000, 29000, 7):
        with socket.socket() as server:
            try:
                server.bind(("127.0.0.1", port))
            except OSError:
                continue
            server.listen()
            yield port
            return
    raise AssertionError("no port is free")


# --- libuv ------------------------------------------------------------------------------------


MEETING = {
    "standalone": ["--standalone"],
    "static": ["--first-port", "29440"],
    "default": [],
}


@pytest.mark.parametrize(
    ("meeting", "env", "libuv"),
    [
        pytest.param("standalone", {}, True, marks=pytest.mark.slow),
        ("standalone", {"NANOCHAT_LIBUV": "0"}, False),
        pytest.param("static", {"USE_LIBUV": "0"}, False, marks=pytest.mark.slow),
        pytest.param("static", {"USE_LIBUV": "1", "NANOCHAT_LIBUV": ""}, True, marks=pytest.mark.slow),
        pytest.param("default", {"NANOCHAT_LIBUV": "0"}, False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_store_of_agent_and_ranks_has_libuv_or_none_has(
    tmp_path: Path, meeting: str, env: dict[str, str], libuv: bool
) -> None:
    # torchrun alone takes --run for one of its own flags, abbreviated.
    agent, rank = script(tmp_path, "agent.py", AGENT), script(tmp_path, "rank.py", RANK)
    words = [agent, *MEETING[meeting], "--nproc_per_node", "2", rank, "--run", "a b"]
    found = reports(run(*words, env=env))
    assert set(found) == {"agent", "rank 0", "rank 1"}
    for told in (report for who in found.values() for report in who):
        assert set(told["libuv"]) == {libuv}, found  # type: ignore[call-overload]
    for name in ("rank 0", "rank 1"):
        assert (found[name][0]["total"], found[name][0]["argv"]) == (2, ["--run", "a b"])


@pytest.mark.slow
def test_a_torch_without_libuv_works_here_and_not_under_torchrun(tmp_path: Path) -> None:
    script(tmp_path, "sitecustomize.py", WITHOUT_LIBUV)
    script(
        tmp_path,
        "rank.py",
        RANK.replace("default, asked)", "default)").replace("    asked =", "    #"),
    )
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPO}"}
    words = ["--standalone", "--nproc_per_node", "2", "-m", "rank"]

    torchrun = run("-m", "torch.distributed.run", *words, env=env | {"USE_LIBUV": "0"})
    assert torchrun.returncode != 0
    assert "built without libuv" in torchrun.stderr

    found = reports(run("-m", "nanochat.launch", *words, env=env))
    assert [found[name][0]["libuv"] for name in ("rank 0", "rank 1")] == [[False, False]] * 2


def test_a_subclass_made_before_is_without_libuv_as_well() -> None:
    code = """
        import os, torch.distributed as dist
        from nanochat import launch, stores

        class Own(dist.TCPStore):
            pass

        assert stores.has_libuv() and stores.wants_libuv()
        before = Own("127.0.0.1", 0, is_master=True).libuvBackend
        stores.avoid_libuv()
        stores.avoid_libuv()
        made = [kind("127.0.0.1", 0, is_master=True, use_libuv=True) for kind in (Own, dist.TCPStore)]
        made[0].set("key", "value")
        assert made[0].get("key") == b"value"
        print(before, *(store.libuvBackend for store in made), os.environ["USE_LIBUV"], stores.wants_libuv())
    """
    done = run("-c", textwrap.dedent(code))
    assert done.stdout.split() == ["True", "False", "False", "0", "False"], done.stderr


def test_a_libuv_variable_that_says_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_LIBUV", "maybe")
    with pytest.raises(WrongUsage, match="'maybe', but takes 0 or 1"):
        stores.wants_libuv()


# --- who can reach the ranks ------------------------------------------------------------------

LISTENING = """
    # Where the agent and the ranks of this machine listen.
    import json, os
    import torch, torch.distributed as dist
    from nanochat.distributed import join
    from nanochat.device import find

    def addresses(pid):
        own = set()
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                own.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except OSError:  # closed meanwhile
                pass
        found = []
        for table in ("tcp", "tcp6"):
            for line in open(f"/proc/net/{table}").readlines()[1:]:
                words = line.split()
                if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                    found.append(words[1].partition(":")[0])
        return found

    world = join(find("cpu"))
    assert world.gather_objects(world.rank) == list(range(world.size))
    who = {"rank " + os.environ["RANK"]: os.getpid()}
    if world.first and "AGENT" in os.environ:
        who["agent"] = int(os.environ["AGENT"])
    for name, pid in who.items():
        os.write(1, f"REPORT {json.dumps({'who': name, 'at': addresses(pid)})}\\n".encode())
    world.close()
"""
TELLING_ITS_PID = """
    import os
    from nanochat import flags, launch

    os.environ["AGENT"] = str(os.getpid())
    flags.run(launch.main)
"""
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--first-port", "23400"), ("--standalone",)])
@pytest.mark.parametrize("libuv", ["", "0"])
def test_on_one_machine_nobody_listens_to_others(
    tmp_path: Path, how: tuple[str, ...], libuv: str
) -> None:
    agent = script(tmp_path, "agent.py", TELLING_ITS_PID)
    words = (*how, "--nproc_per_node", "2", script(tmp_path, "listening.py", LISTENING))
    found = reports(run(agent, *words, env={"NANOCHAT_LIBUV": libuv}))
    assert set(found) == {"agent", "rank 0", "rank 1"}
    for who, (told,) in found.items():
        assert told["at"] and set(told["at"]) <= LOOPBACK, who  # type: ignore[call-overload]


@pytest.mark.slow
def test_without_an_agent_the_first_rank_serves_on_loopback(tmp_path: Path) -> None:
    path = script(tmp_path, "listening.py", LISTENING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [warm.python(), path],
            env=environment({**where, "RANK": str(rank)}),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        told = rank.communicate(timeout=100)[0]
        assert rank.returncode == 0
        at = json.loads(told.partition("REPORT ")[2].splitlines()[0])["at"]
        assert at and set(at) <= LOOPBACK


# --- ports ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_free_port_is_taken(tmp_path: Path) -> None:
    rank = script(tmp_path, "rank.py", RANK)
    with listener() as taken:
        done = run("-m", "nanochat.launch", "--first-port", str(taken), rank)
        assert next(launch.free_ports(taken)) > taken
    (told,) = reports(done)["rank 0"]
    assert told["port"] > taken  # type: ignore[operator]
    assert f"ranks meet at 127.0.0.1:{told['port']}" in done.stderr


@pytest.mark.slow
def test_a_port_that_somebody_takes_at_the_last_moment_is_left(tmp_path: Path) -> None:
    agent = script(
        tmp_path,
        "agent.py",
        """
        from nanochat import flags, launch, stores

        launch._nobody_listens = lambda port: True  # as if it were free still when it was looked at
        flags.run(launch.main)
        """,
    )
    rank = script(tmp_path, "rank.py", RANK)
    with listener() as taken:
        done = run(agent, "--first-port", str(taken), rank)
    assert reports(done)["rank 0"][0]["port"] == taken + 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--first-port", "29500", "--standalone"], "give one of them"),
        (["--first-port", "29500", "--master-port", "29501"], "give one of them"),
        (["--first-port", "29500", "--nnodes", "1:2"], "for one machine"),
        (["--first-port", "70000"], "is no port"),
        (["--master-port", "0"], "would hang"),
    ],
)
def test_flags_that_contradict_each_other(words: list[str], message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        launch.be_agent([*words, "script.py"])


def test_no_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "free_ports", lambda first: iter(()))
    with pytest.raises(NanochatError, match="no port from 29500 to 29599 is free"):
        launch.be_agent(["--first-port", "29500", "script.py"])


# --- ranks as programs ------------------------------------------------------------------------


@pytest.mark.parametrize("module", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_worker_sees_what_a_program_of_its_own_would(tmp_path: Path, module: bool) -> None:
    script(
        tmp_path,
        "program.py",
        """
        import json, multiprocessing, os, pickle, sys

        class Thing:
            pass

        if __name__ == "__main__":
            pickle.dumps(Thing())  # by its place in __main__
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                power = pool.apply(pow, (2, 5))
            print(json.dumps([sys.argv, sys.path[0], __file__, power, __spec__ and __spec__.name]))
            sys.exit(7)
        """,
    )
    words: list[str | Path] = ["-m", "program"] if module else [tmp_path / "program.py"]
    alone = run(*words, "a b", "--worker", cwd=tmp_path)
    worker = run("-m", "nanochat.launch", "--worker", *words, "a b", "--worker", cwd=tmp_path)
    assert worker.returncode == alone.returncode == 7, worker.stderr
    assert json.loads(worker.stdout) == json.loads(alone.stdout)


def test_a_worker_without_a_script() -> None:
    with pytest.raises(WrongUsage, match="takes a script"):
        launch.be_worker(["-m"])


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])  # fmt: skip
def test_the_status_of_the_rank_that_failed(tmp_path: Path, ending: str, status: int) -> None:
    rank = script(tmp_path, "rank.py", f"import os, sys\nprint('its own words')\n{ending}\n")
    done = run("-m", "nanochat.launch", "--standalone", rank)
    assert done.returncode == status
    assert "its own words" in done.stdout
    assert "error: rank 0 was the first to fail" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("libuv", ["0", "1"])
def test_a_signal_ends_agent_and_ranks(tmp_path: Path, libuv: str) -> None:
    rank = script(
        tmp_path,
        "rank.py",
        "import os, time\nos.write(1, b'%d\\n' % os.getpid())\ntime.sleep(90)\n",
    )
    agent = subprocess.Popen(
        [warm.python(), "-m", "nanochat.launch", "--standalone", "--nproc_per_node", "2", rank],
        env=environment({"NANOCHAT_LIBUV": libuv}), cwd=REPO, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert agent.stdout is not None
    ranks = [int(agent.stdout.readline()) for _ in range(2)]
    agent.send_signal(signal.SIGTERM)
    _, words = agent.communicate(timeout=60)
    assert agent.returncode == 143
    assert words.splitlines()[-1] == "stopped by SIGTERM, and so were the ranks"
    for _ in range(50):
        if not any(Path(f"/proc/{rank}").exists() for rank in ranks):
            break
        time.sleep(0.1)
    for pid in ranks:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
