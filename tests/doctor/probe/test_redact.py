"""What may be posted: nothing that names a person or a machine, and every version as it was."""

from __future__ import annotations

import getpass
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import build
from verdicts import TABLES

from doctor.cli.decision import target_of
from doctor.facts import Facts, Gpu, Host, Nvidia, Python, from_json, to_json
from doctor.machine.system import System
from doctor.planner.decide import plan
from doctor.planner.terms.plan import Wishes
from doctor.probe.redact import redact
from doctor.probe.survey import survey
from doctor.text.credentials import without_secrets

# built from parts, so that no scanner takes the test for a leak
LONG = "A1b2C3d4" * 4
SECRETS = [
    "hf" + "_" + LONG,
    "gh" + "p_" + LONG,
    "gh" + "o_" + LONG,
    "git" + "hub_pat_" + LONG,
    "gl" + "pat-" + LONG,
    "s" + "k-" + LONG,
    "AK" + "IA" + LONG[:16].upper(),
    "xox" + "b-" + LONG,
    "e" + "yJhbGciOiJIUzI1NiJ9." + LONG + "." + LONG,
]
LABELLED = ["token=", "TOKEN: ", "api_key=", "API-KEY = ", "password=", "secret: ", "passwd="]


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A tree of a user with a name, a home and a host name of their own."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/environment").write_text(
        "HOME=/data/people/wilma\nUSER=wilma\nHOSTNAME=bedrock-07\n"
    )
    return System(tmp_path)


@pytest.mark.parametrize("secret", SECRETS, ids=lambda s: s[:4])
@pytest.mark.parametrize("around", ["{}", "cause: {} was refused", "x={};", '"{}"', "/path/{}/y"])
def test_secrets(system: System, secret: str, around: str) -> None:
    shown = redact(around.format(secret), system)
    assert LONG[:12] not in shown and "…" in shown


@pytest.mark.parametrize("label", LABELLED)
def test_labelled_secrets(system: System, label: str) -> None:
    assert redact(f"with {label}hunter22 set", system) == f"with {label}… set"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPU-3f1c9a52-77aa-4b1e-9a2d-0123456789ab", "GPU-…"),
        ("GPU-3f1c9a52", "GPU-…"),
        ("1g.10gb MIG-3f1c9a52-77aa-4b1e-9a2d-0123456789ab", "1g.10gb MIG-…"),
        ("MIG-GPU-3f1c9a52-77aa-4b1e-9a2d-0123456789ab/1/0", "MIG-GPU-…/1/0"),
        ("id 3F1C9A52-77AA-4B1E-9A2D-0123456789AB.", "id …."),
        ("Serial Number : 1025C9048790", "Serial Number : …"),
        ("serial=1320220012345, ok", "serial=… ok"),
        ("link 6c:34:91:87:3d:46 up", "link … up"),
        ("from 192.168.1.17 to 10.0.0.1:8080", "from … to …:8080"),
        ("https://user:pass@mirror.example/simple", "https://«private»"),
        ("https://mirror.example/simple", "https://«private»"),
    ],
)
def test_identifiers(system: System, text: str, expected: str) -> None:
    assert redact(text, system) == expected


@pytest.mark.parametrize(
    "text",
    [
        "580.95.05",
        "580.95.05 13.0",
        "2.9.1+cu128",
        "2.9.0.post2",
        "7.7.0.6.236",
        "V100R001C23SPC005B219",
        "0000:C1:00.0",
        "00000000:21:00.0",
        "0x2b85",
        "3.12.3",
        "6.8.0-1021-aws",
        "git ba93d56a1f7c2f4be0f3a7d6b2f1c5e8d9a0b1c2",
        "NVIDIA H100 80GB HBM3",
        "GPU0 NV18",
        "tokenizer: tokenizer.pkl",
        "/usr/local/cuda-12.8/lib64",
        "nvidia-smi printed nothing and ended with status 9",
    ],
)
def test_what_helps_stays(system: System, text: str) -> None:
    assert redact(text, system) == text


@pytest.mark.parametrize("version", ["12.8.0.1", "9.10.2.21", "9.1.0.70", "2.27.3.1"])
def test_versions_of_four_parts_stay(system: System, version: str) -> None:
    """cuDNN's versions look like addresses; in a field called version they are none."""
    data = {"libraries": [{"name": "libcudnn.so.9", "version": version}]}
    assert redact(data, system) == data


@pytest.mark.parametrize(
    "kernel", ["5.15.167.4-microsoft-standard-WSL2", "6.6.87.2-microsoft-standard-WSL2"]
)
def test_the_kernel_of_wsl_stays(system: System, kernel: str) -> None:
    assert redact({"kernel": kernel}, system) == {"kernel": kernel}


@pytest.mark.parametrize("address", ["fe80::1ff:fe23:4567:890a", "2001:db8:85a3::8a2e:370:7334"])
def test_long_addresses(system: System, address: str) -> None:
    assert address not in redact(f"no answer from {address}", system)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/people/wilma", "~"),
        ("/data/people/wilma/x", "~/x"),
        ("PYTHONPATH=/data/people/wilma/a:/data/people/wilma/b", "PYTHONPATH=~/a:~/b"),
        ("/data/people/wilmas/x", "/data/people/wilmas/x"),
        ("/home/fred/nanochat", "/home/…/nanochat"),
        ("/Users/fred/x and /home/betty", "/Users/…/x and /home/…"),
        ("/mnt/home/fred/x", "/mnt/home/…/x"),
        ("/homes/fred", "/homes/…"),
        ("/scratch/wilma/run", "/scratch/…/run"),
        ("wilma@bedrock-07", "…@…"),
        ("on bedrock-07.example.org", "on ….example.org"),
        ("wilmas-tool", "wilmas-tool"),
        ("wilma-tool", "…-tool"),
        ("bedrock-071", "bedrock-071"),
    ],
)
def test_names_and_homes_as_whole_parts(system: System, text: str, expected: str) -> None:
    assert redact(text, system) == expected


@pytest.mark.parametrize(
    "text", ["A=/data/people/wilma:/x", "in '/data/people/wilma'", "no /data/people/wilma, so"]
)
def test_a_home_that_ends_before_punctuation(system: System, text: str) -> None:
    assert "/data/people/" not in redact(text, system)


@pytest.mark.parametrize("name", ["root", "ubuntu", "user", "admin", "localhost", "vm"])
def test_names_that_everyone_has_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/environment").write_text(f"USER={name}\nHOSTNAME={name}\nHOME=/{name}\n")
    text = f"{name} runs /{name}/x"
    assert redact(text, System(tmp_path)) == text


def test_names_of_this_machine() -> None:
    node, user = os.uname().nodename, getpass.getuser()
    shown = redact(f"{user} at {node}: <{user}>", System())
    for name in (node, user):
        if len(name) > 2 and name.lower() not in ("root", "localhost", "ubuntu", "user"):
            assert name not in shown


def test_keys_are_never_touched_and_uuids_dropped(system: System) -> None:
    data = {"wilma": "wilma", "uuid": "GPU-1", "a": [{"token": 1, "b": [None, True, 1.5]}]}
    assert redact(data, system) == {
        "wilma": "…",
        "uuid": None,
        "a": [{"token": 1, "b": [None, True, 1.5]}],
    }


def test_whole_facts_can_still_be_read(system: System) -> None:
    uuid = "GPU-3f1c9a52-77aa-4b1e-9a2d-0123456789ab"
    facts = Facts(
        host=Host(os="Linux", kernel="6.8.0-48-generic", unknown={"os": "wilma said no"}),
        nvidia=Nvidia(
            driver_version="580.95.05", gpus=(Gpu(index=0, uuid=uuid),), visible_variable=uuid
        ),
        python=Python(prefix="/data/people/wilma/.venv", packages={"torch": "2.9.1+cu128"}),
    )
    shown = redact(to_json(facts), system)
    back = from_json(shown)
    assert back.python is not None and back.python.prefix == "~/.venv"
    assert back.nvidia is not None and back.nvidia.driver_version == "580.95.05"
    text = json.dumps(shown, ensure_ascii=False)
    assert "wilma" not in text and "3f1c9a52" not in text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


def shape(value: Any) -> Any:
    """The same without its leaves."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key != "uuid"}
    return [shape(item) for item in value] if isinstance(value, list) else None


@settings(deadline=None, max_examples=100)
@given(anything)
def test_the_shape_of_any_value_stays(value: Any) -> None:
    bare = System()
    bare.env = {}
    shown = redact(value, bare)
    assert shape(shown) == shape(value)
    assert redact(shown, bare) == shown


@settings(deadline=None, max_examples=100)
@given(st.text("abc /:=.-_", max_size=20), st.text("abc /:=.-_", max_size=20))
def test_a_secret_does_not_hide_in_any_text(before: str, after: str) -> None:
    bare = System()
    bare.env = {}
    shown = redact(f"{before} {SECRETS[0]} {after}", bare)
    assert LONG not in shown


# --- forty secrets in forty places --------------------------------------------------------------

HEX = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
PLANTED = {
    **{f"mark {number}": secret for number, secret in enumerate(SECRETS)},
    "GitHub user": "gh" + "u_" + LONG,
    "GitHub server": "gh" + "s_" + LONG,
    "pypi": "pypi" + "-AgEIcHlwaS5vcmc" + LONG,
    "Google": "AI" + "za" + LONG[:35],
    "Anthropic": "s" + "k-ant-" + LONG,
    "npm": "npm" + "_" + LONG,
    "Docker": "dckr" + "_pat_" + LONG,
    "NVIDIA": "nv" + "api-" + LONG,
    "GitLab deploy": "gl" + "dt-" + LONG,
    "Slack app": "xox" + "p-" + LONG,
    "wandb": "a1b2c3d4e5" * 4,
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----" + LONG,
    "bearer": "Authorization: Bearer hunter22hunter",
    "basic": "authorization=Basic aHVudGVyMjI6aHVudGVyMjI=",
    "AWS": "AWS_SECRET_ACCESS_KEY=hunter22/hunter+22",
    "pass": "https://zed:hunter22/hun@ter@pkgs.corp.example/simple",
    "path": f"https://pkgs.corp.example/{LONG}/simple",
    "query": "https://pkgs.corp.example/simple?token=hunter22",
    "login": "https://hunter22@pkgs.corp.example/simple",
    "e-mail": "wilma.flint@bedrock.example",
    "MAC": "6c:34:91:87:3d:46",
    "MAC with dashes": "6C-34-91-87-3D-46",
    "MAC with points": "6c34.9187.3d46",
    "IPv4": "192.168.17.4",
    "IPv6": "2001:db8:85a3::8a2e:370:7334",
    "IPv6 of a link": "fe80::6e34:91ff:fe87:3d46%eth0",
    "UUID": "3f1c9a52-77aa-4b1e-9a2d-0123456789ab",
    "GPU": "GPU-3f1c9a52-77aa-4b1e-9a2d-0123456789ab",
    "short GPU": "GPU-3f1c9a52",
    "MIG": "MIG-3f1c9a52-77aa-4b1e-9a2d-0123456789ab",
    "machine id": HEX,
    "serial": "Serial Number: 1025C9048790",
    "S/N": "S/N: J1004ZZ77",
    "user": "/scratch/wilma/x",
    "tag": "wilma-d4",
    "tag with a line": "run_wilma_7",
    "capital": "Wilma",
    "home": "/home/fredflint/x",
    "home elsewhere": "/mnt/home2/fredflint/x",
    "Windows": "C:\\Users\\Fred Flint\\AppData",
    "WSL": "/mnt/c/Users/Fred Flint/AppData",
    "share": "\\\\filer07\\people\\fredflint",
    "host": "bedrock-07",
    "host and domain": "bedrock-07.quarry.example",
    "internal": "nexus.quarry.internal",
    "account": "SLURM_JOB_ACCOUNT=quarry-llm",
    "job": "--job-name=quarry-llm",
}
VISIBLE_PARTS = (
    LONG[:10], HEX, "a1b2c3d4e5", "hunter", "corp", "bedrock", "flint", "6c", "6C-", "192.168", "db8", "6e34",
    "3f1c9a52",
    "1025C", "J1004", "wilma", "Wilma", "Fred", "filer07", "quarry", "zed",
)  # fmt: skip
"""What of them may be seen nowhere."""

PLACES = {
    "host": ["distro_name", "pip_index", "uv_index"],
    "python": ["executable", "chosen_by", "prefix", "headers"],
    "nvidia": ["driver_library", "smi_error", "nvcc"],
    "ascend": ["smi_path", "smi_error", "device_group", "active_toolkit", "nnal"],
    "torch": ["installed_by", "shadowing_path", "import_blocker"],
    "rust": ["rustc_path", "off_path", "toolchain_file", "mirror", "crate", "module_path", "module_stale"],
    "storage": ["base_dir", "tokenizer", "tokenizer_damage"],
}  # fmt: skip


def planted(secret: str) -> dict[str, Any]:
    """Facts with a secret in every field of text in which nothing decides, and in every reason."""
    data = to_json(Facts())
    for area, names in PLACES.items():
        free = [name for name in names if name != "distro_name"]
        data[area] = dict.fromkeys(free, f"at {secret}, so") | {"unknown": {"version": secret}}
    data["unknown"] = {"nvidia": f"the probe failed: {secret}"}
    data["python"]["import_path"] = [secret, f"/opt/{secret}/lib"]
    data["python"]["shadowed_modules"] = [secret]
    data["nvidia"]["gpus"] = [
        {"index": 0, "processes": [{"pid": 1, "name": secret}], "unknown": {"name": secret}}
    ]
    data["nvidia"]["toolkits"] = [{"path": secret}]
    data["storage"]["checkpoints"] = {"base": [f"{secret}/model_1.pt"]}
    data["storage"]["checkpoint_damage"] = [f"{secret}: cut short"]
    data["storage"]["shards"] = [{"path": secret, "damaged": [secret]}]
    data["network"] = {"endpoints": [{"name": secret, "host": secret, "trouble": secret}]}
    data["deep"] = {"checks": [{"name": secret, "detail": secret}]}
    return data


def leaves(value: Any) -> list[str]:
    """All texts of a value, keys left out."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", PLANTED)
def test_forty_secrets_in_forty_places(system: System, name: str) -> None:
    (system.locate("/etc/environment")).write_text(
        "HOME=/data/people/wilma\nUSER=wilma\nHOSTNAME=bedrock-07.quarry.example\nSLURM_JOB_ACCOUNT=quarry-llm\n"
    )
    assert system.root is not None
    for leaf in leaves(redact(planted(PLANTED[name]), System(system.root))):
        assert not [part for part in VISIBLE_PARTS if part in leaf], leaf


SERVICES = ("mark", "Git", "pypi", "Google", "Anthr", "bearer", "basic", "AWS", "pass")


@pytest.mark.parametrize("name", [n for n in PLANTED if n.startswith(SERVICES)])
def test_no_secret_reaches_an_output_or_a_log(name: str) -> None:
    text = without_secrets(f'{{"said": "at {PLANTED[name]} now"}}')
    assert LONG[:10] not in text and "hunter" not in text
    assert json.loads(text)


# --- what decides ---------------------------------------------------------------------------------

USERS = "cuda torch x86_64 linux 8.9 nvidia python opt 12.0 glibc cu130 ubuntu wheel".split()


@pytest.mark.parametrize("number", range(12))
def test_a_name_never_changes_a_plan(number: int, tmp_path: Path) -> None:
    case = list(CASES.values())[number * len(CASES) // 12]
    root = build(case.machine, tmp_path)
    facts = survey(System(root, execute=True), TABLES, debug=True)
    before = planned(to_json(facts))
    seen: list[Any] = [to_json(facts)]
    for user in USERS:
        system = System(root)
        system.env = {"USER": user, "HOSTNAME": user, "HOME": f"/home/{user}"}
        shown = redact(to_json(facts), system)
        if shown not in seen:  # mostly they are alike, and so are their plans
            seen.append(shown)
            assert planned(shown) == before, user


def planned(data: Any) -> Any:
    """The plan that some facts lead to."""
    facts = from_json(data)
    made = plain(plan(facts, TABLES, Wishes(), target_of(facts)).to_json())
    return {**made, "findings": [finding["code"] for finding in made["findings"]]}


def plain(data: Any) -> Any:
    """The same with every home folder as `~`: those are what a redacted path differs in."""
    return json.loads(
        re.sub(r"/(?:home|Users)/[^/\"\s]+", "~", json.dumps(data, ensure_ascii=False))
    )


# --- texts that were made to keep us busy ----------------------------------------------------------

PIECES = [
    "x", " ", "\n", "=", ":", "-", "+", ".", "@", '"', "\\", "\0", "İ", "a=", "a: ", "a+", "a.", "= ", "=\n", "=x==x",
    "://", "://:", "://a@", "://a:", "://a:b@", "://a:\\", "https://h.corp/", "https://a:b@h.corp ", "h.corp",
    "-----BEGIN ", "-----BEGIN A", "-----BEGIN PRIVATE KEY-----", "hf_", "hf_x ", "pypi-", "AKIA", "xoxb-", "sk-a",
    "=a=", "sk-", "eyJ", "eyJaaaaaaaaaa", "eyJaaaaaaaaaa.", "hooks.slack.com/services/", "Bearer ", "Bearer aaaaaa",
    "basic  ", "= bearer ", ": token", "password", "password=", "token: a1", "?key=a", "?kkkkkkkkkk", "&a",
    "api_key_id",
]  # fmt: skip
SIZE = 1 << 17


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES)
def test_a_long_text_takes_no_longer_than_another(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What begins again at each letter would take minutes; the limit of a test is the measure."""
    monkeypatch.setattr("doctor.text.credentials._hosts", {"h.corp"})
    monkeypatch.setattr("doctor.text.credentials._values", {"hunter22-hunter22"})
    text = f"@ ://{piece * (SIZE // len(piece))}h.corp"
    assert LONG not in without_secrets(f"{text} {SECRETS[0]} https://me:{LONG}@h.corp/x")


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["x", "a.", "a-", "a+", "a@", "a@b", "/home/", "/u/a ", "\\users\\", "serial ", "::", "a:"],
)
def test_facts_may_hold_a_long_text(piece: str, tmp_path: Path) -> None:
    redact({"unknown": piece * (SIZE // len(piece))}, System(tmp_path))


@pytest.mark.parametrize("length", [10, 499, 2000, 4000])
@pytest.mark.parametrize("place", ["h.corp", "example.org"])
def test_a_password_may_be_long(length: int, place: str) -> None:
    secret = ("Ab1/:" * length)[:length]
    said = without_secrets(
        f"get https://aws:{secret}@{place}/simple/, or https://{place}:8080/x it"
    )
    assert "Ab1" not in said and f"://{place}/simple/" in said and f"{place}:8080/x it" in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x https://u@h/x", "https://h/x https://h/x"),
        ("https://h:80/a@b", "https://b"),
        ("https://h/a@b", "https://h/a@b"),
        ("git@h.org:x/y", "git@h.org:x/y"),
        ("a://@h", "a://@h"),
        ("a://:p@h b://u:@h", "a://h b://h"),
        ('{"u": "http://a:b@h"}', '{"u": "http://h"}'),
        ("a://u:p@h,b://u:p@h", "a://h"),
    ],
)
def test_logins(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
